Feature: Machines join over SSH with one command, and nobody is left behind

  @s01
  Scenario: A machine is added
    Given a machine attic with rbee on it
    And a queen I started
    When I run rbee hive add attic attic --accept-new
    Then the exit code is 0
    And the registry has attic with the time of its last connection
    And the host key of attic is pinned
    And hive attic is online

  @s01
  Scenario: An unknown host key is shown, and trusted only when it was compared
    Given a machine attic with rbee on it
    And a queen I started
    When I run rbee hive add attic attic
    Then the exit code is 255
    And stderr names HOST_KEY_UNKNOWN and what to do
    And stderr shows the fingerprint of attic
    And nothing is saved
    When I run rbee hive add attic attic with another fingerprint
    Then the exit code is 255
    And nothing is saved
    When I run rbee hive add attic attic with its fingerprint
    Then the exit code is 0
    And hive attic is online

  @s02
  Scenario: A machine that nobody answers at is not added
    Given an address attic where nobody answers
    And a queen I started
    When I run rbee hive add attic attic
    Then the exit code is 255
    And stderr names CONNECTION_FAILED and 3 tries
    And nothing is saved

  @s03
  Scenario: rbee is put on an empty machine, without its help
    Given an empty machine attic
    And a queen I started
    And the machine attic was added
    When I run rbee hive install attic
    Then the exit code is 0
    And stderr shows the steps of the installation
    And the version on attic is this one
    And hive attic is online
    When I run rbee infer --hive attic --model echo "one two"
    Then the exit code is 0
    And stdout is "one two"
    When I run rbee hive uninstall attic --yes
    Then the exit code is 0
    And nothing of rbee is left on attic but its models
    And nothing runs on attic

  @s04
  Scenario: Machines are listed with where they are, how they are and what they run
    Given a machine attic with rbee on it
    And an empty machine cellar
    And a queen I started
    And the machine attic was added
    And the machine cellar was added
    When I run rbee hive list
    Then the exit code is 0
    And the list says attic online with its address and version
    And the list says cellar "not installed"
    And stdout names cellar and install

  @s05
  Scenario: A machine that is removed is stopped and forgotten
    Given a machine attic with rbee on it
    And a queen I started
    And the machine attic was added
    When I run rbee hive remove attic --yes
    Then the exit code is 0
    And nothing is saved
    And nothing runs on attic

  @s06
  Scenario: Work for a machine that nobody added
    Given a queen I started
    When I run rbee infer --hive attic --model echo "one two"
    Then the exit code is 1
    And stderr names HIVE_NOT_FOUND and rbee hive add attic

  @s12
  Scenario: A healthy machine is used, also by a queen that was only just started
    Given a machine attic with rbee on it
    And a queen I started
    And the machine attic was added
    When I run rbee queen stop
    And I run rbee infer --hive attic --model echo "one two"
    Then the exit code is 0
    And stdout is "one two"
    And it ran on attic

  @s13 @s43
  Scenario: A machine with another version says both and the command that helps
    Given a machine attic with rbee on it that speaks another protocol
    And a queen I started
    And the machine attic was added
    When I run rbee infer --hive attic --model echo "one two"
    Then the exit code is 1
    And stderr names VERSION_MISMATCH and rbee hive upgrade attic
    And stderr names both versions
    When I run rbee logs --hive attic
    Then the exit code is 0
    And stdout names listens and attic

  @s14 @s36
  Scenario: A machine that falls silent is tried three times
    Given a machine attic with rbee on it
    And a queen I started
    And the machine attic was added
    When attic accepts connections and says nothing any more
    And I run rbee infer --hive attic --model echo "one two"
    Then the exit code is 1
    And stderr names CONNECTION_TIMEOUT and 3 tries

  @s57
  Scenario: The paths on a machine can be others
    Given a machine attic with rbee in another place
    And a queen I started
    When I add attic with that place and its own folder for models
    Then the exit code is 0
    And hive attic is online
    And hive attic keeps its models in that folder

  @s62
  Scenario: The log of a machine's hive is followed until Ctrl+C
    Given a machine attic with rbee on it
    And a queen I started
    And the machine attic was added
    When I start rbee logs --hive attic --follow in the background
    Then its stdout tells that the hive listens
    When I run rbee infer --hive attic --model echo "one two"
    Then its stdout tells of the worker that was started
    When it gets SIGINT
    Then it exits with 130

  Scenario: A machine that lets none of our keys in
    Given a machine attic that knows none of my keys
    And a queen I started
    When I run rbee hive add attic attic --accept-new
    Then the exit code is 255
    And stderr names LOGIN_REFUSED and ssh-copy-id
    And nothing is saved

  Scenario: A machine that takes passwords only
    Given a machine attic that takes passwords only
    And a queen I started
    When I run rbee hive add attic attic --accept-new
    Then the exit code is 255
    And stderr names LOGIN_REFUSED and passwords only
    And nothing is saved

  Scenario: A machine that shows another key than before is not spoken to
    Given a machine attic with rbee on it
    And a queen I started
    And the machine attic was added
    When the host key of attic is another
    And I run rbee hive refresh attic
    Then the exit code is 255
    And stderr names HOST_KEY_CHANGED and ssh-keygen -R
    And stderr shows both fingerprints

  Scenario: A stream goes on when the link breaks
    Given a machine attic with rbee on it
    And a queen I started
    And the machine attic was added
    When a long answer streams from attic
    And the link to attic breaks
    Then the answer is whole, without a word twice
    And its worker is the one that was there

  Scenario: A machine that is silent for ten seconds comes back with its workers loaded
    Given a machine attic with rbee on it
    And a queen I started
    And the machine attic was added
    And a worker runs on attic
    When the link to attic is dead for 10 seconds
    Then hive attic is online
    And its worker is the one that was there

  Scenario: A machine that hears nothing of its queen ends its workers and itself
    Given a machine attic with rbee on it whose lease is 2 seconds
    And a queen I started
    And the machine attic was added
    And a worker runs on attic
    When the queen gets SIGKILL
    Then nothing runs on attic within 20 seconds

  Scenario: A queen that was killed takes up the machines again
    Given a machine attic with rbee on it
    And a queen I started
    And the machine attic was added
    And a worker runs on attic
    When the queen gets SIGKILL
    And I run rbee queen start
    Then hive attic is online
    And its worker is the one that was there

  Scenario: A hive that was killed is started again, and its workers went with it
    Given a machine attic with rbee on it
    And a queen I started
    And the machine attic was added
    And a worker runs on attic
    When the hive of attic is killed with SIGKILL
    Then the worker's process is soon gone
    And hive attic is online

  Scenario: A hive that was told to stay does so when its queen stops
    Given a machine attic with rbee on it
    And a queen I started
    And the machine attic was added
    And a worker runs on attic
    When I run rbee hive start attic --detached 300
    And I run rbee queen stop
    Then the hive of attic still runs
    When I run rbee queen start
    Then hive attic is online
    And its worker is the one that was there
