Feature: From nothing to a streamed answer

  @s07
  Scenario: Cold start
    Given nothing runs
    When I run rbee infer --model smollm2-135m --max-tokens 12 --seed 1 "Why do bees dance?"
    Then the exit code is 0
    And stdout has an answer
    And stderr tells that the queen was started and the model loaded
    And the job made 12 tokens or ended by itself
    And one worker with smollm2-135m is idle

  @s08 @s10 @s58 @s52
  Scenario: Warm start on the worker that is there
    Given a queen I started
    And an answered request
    When I run rbee infer --model smollm2-135m --max-tokens 5 "Hello"
    Then the exit code is 0
    And stdout has an answer
    And the same worker answered and no other was started
    And the queen still runs

  @s09
  Scenario: No workers yet
    Given a queen I started
    When I run rbee worker list --json
    Then the exit code is 0
    And the listed workers are none
    When I run rbee infer --model echo "one two three"
    Then the exit code is 0
    And stdout is "one two three"

  @s34
  Scenario: Tokens stream with index and the end has totals
    Given a queen I started
    When I submit an echo job of 20 words and read its stream
    Then its events are queued, started, tokens, metrics, end in this order
    And its ids count from 1 without gaps
    And its tokens are numbered from 0
    And its end says stop and 20 tokens
    And reading again after event 10 gives the rest only

  @s40
  Scenario: Ctrl+C cancels and frees the slot
    Given a queen I started
    When I start rbee infer --model echo "@delay=100 @repeat=200 tick" in the background
    And it has printed "tick"
    And I press Ctrl+C there
    Then it exits with 130
    And the job is cancelled
    And the worker has no busy slot within 5 seconds

  Scenario: A pipe for the prompt and one object for the answer
    Given a queen I started
    When I run rbee infer --model echo --json - with "from a pipe" on stdin
    Then the exit code is 0
    And stdout is one object whose text is "from a pipe"
