Feature: The life of daemons

  @s46 @s50
  Scenario: What a command started outlives the command
    Given nothing runs
    When I run rbee infer --model echo "hello"
    Then the exit code is 0
    And the queen still runs
    And its hive answers with a worker

  @s49
  Scenario Outline: <signal> takes the tree down
    Given rbee --no-tui in the foreground
    And 3 workers, one of them busy
    When the queen gets <signal>
    Then everything is gone within 3 seconds
    And rbee --no-tui exited with 0
    And the database is sound

    Examples:
      | signal  |
      | SIGTERM |
      | SIGINT  |

  Scenario: SIGKILL of the queen leaves nobody
    Given rbee --no-tui in the foreground
    And 3 workers, one of them busy
    When the queen gets SIGKILL
    Then everything is gone within 3 seconds

  @s51
  Scenario: Ephemeral leaves nothing
    Given nothing runs
    When I run rbee infer --ephemeral --model echo "hello"
    Then the exit code is 0
    And stdout is "hello"
    And nothing runs any more

  Scenario: A queen that a command started leaves by itself
    Given nothing runs, and queens linger for 1 second
    When I run rbee infer --model echo "hello"
    Then the exit code is 0
    And everything is gone within 8 seconds

  Scenario: A second start says where the first one is
    Given a queen I started
    When I run rbee queen start
    Then the exit code is 1
    And stderr names QUEEN_RUNNING and its address
    When I run rbee --no-tui
    Then the exit code is 1
    And stderr names QUEEN_RUNNING and its address

  Scenario: Status, logs and stop
    Given a queen I started
    When I run rbee queen status --json
    Then the exit code is 0
    And stdout has the queen's address
    When I run rbee queen logs
    Then the exit code is 0
    When I run rbee queen stop
    Then the exit code is 0
    And nothing runs any more

  Scenario: What waited runs after kill -9 of the queen
    Given a queen I started
    And a running job and a waiting one
    When the queen gets SIGKILL
    And I run rbee queen start
    Then the waiting job is completed
    And the running job has gone on and is whole

  Scenario: A hive with a process of its own
    Given a queen without a hive, and rbee-hive beside it
    When I run rbee infer --model echo "over http"
    Then the exit code is 0
    And stdout is "over http"
    When the hive gets SIGKILL
    Then its workers are gone within 3 seconds
    And the queen says that it is offline

  Scenario: Stopping the queen stops a hive with a process of its own
    Given a queen without a hive, and rbee-hive beside it
    When I run rbee infer --model echo "over http"
    And I run rbee queen stop
    Then the exit code is 0
    And nothing runs any more

  Scenario: SIGHUP reads the settings again
    Given rbee --no-tui in the foreground
    And 3 workers, one of them busy
    When the settings file now sets worker.keep_alive to 1
    And the queen gets SIGHUP
    Then 1 worker is left within 10 seconds

  Scenario: A taken port is named with its holder
    Given another program listens on the queen's port
    When I run rbee queen start
    Then the exit code is 1
    And stderr names PORT_TAKEN and by python

  Scenario: Nothing listens beyond loopback without keys
    Given nothing runs
    When I run rbee --no-tui --host 0.0.0.0
    Then the exit code is 1
    And stderr names BIND_REFUSED and what to do

  Scenario: A queen that a command started stays when she is started on purpose
    Given nothing runs, and queens linger for 2 second
    When I run rbee infer --model echo "hello"
    And I run rbee queen start
    Then the exit code is 0
    And the queen still runs after 4 seconds

  Scenario: Five commands at once start one queen
    Given nothing runs
    When I run 5 times at once rbee infer --model echo "hello"
    Then all exit with 0
    And one queen runs

  Scenario: A worker whose start is cancelled is gone
    Given a queen I started
    When I ask for 10 workers and cancel each at once
    Then no worker process is left within 5 seconds

  Scenario: A guard that hangs holds nobody up
    Given rbee --no-tui in the foreground
    And 3 workers, one of them busy
    When a guard is stopped with SIGSTOP
    And the queen gets SIGTERM
    Then everything is gone within 8 seconds

  Scenario: A second hive with the queen's own name is refused
    Given a queen I started
    And an answered request
    When a hive with the name of hers is started
    Then it ends with 1 and HIVE_EXISTS
    And the queen still runs
    And the same worker is still there

  Scenario: A hive of its own outlives its queen and is adopted by the next one
    Given a queen without a hive, and rbee-hive beside it
    And a running job and a waiting one
    When the queen gets SIGKILL
    And I run rbee queen start
    Then the hive is back within 10 seconds
    And the waiting job is completed
    And the running job has gone on and is whole

  Scenario: The stream of a job that goes on later has no false end
    Given a queen I started
    And a running job and a waiting one
    When I follow the waiting job while the queen stops
    Then its stream had neither a terminal event nor DONE

  Scenario: A hive of her own name that still lives keeps a queen from starting, and is named
    Given a queen without a hive, and rbee-hive beside it
    And the next queen is to run a hive of that name
    When the queen gets SIGKILL
    And I run rbee queen start
    Then the exit code is 1
    And stderr names HIVE_EXISTS and what to do
