Feature: The life of a worker

  @s27 @s28 @s29 @s30 @s31 @s32
  Scenario: HTTP first, then the model
    Given a queen I started
    When I ask for a worker with echo-slow
    Then it is listed as loading, with address, pid, backend and device, and no slot
    And asking it whether it is ready gets 503 with the progress address
    And its progress stream ends with ready
    And the job that asked for it told its progress and ended
    And it is then idle with free slots

  @s59
  Scenario: Listing workers
    Given a queen I started
    And an answered request
    When I run rbee worker list
    Then the exit code is 0
    And stdout names the worker, its model and its state

  @s39
  Scenario: A worker that dies is replaced and its answer goes on
    Given a queen I started
    When I start rbee infer --model echo "@delay=100 one two three four five six seven eight" in the background
    And it has printed "two"
    And the worker is killed with SIGKILL
    Then it exits with 0
    And its stdout is "one two three four five six seven eight"
    And its stderr names was lost and goes on
    And another worker answered

  Scenario: A model that cannot be loaded fails at once with the reason
    Given a queen I started
    When I run rbee infer --model echo-broken "x"
    Then the exit code is 1
    And stderr names MODEL_LOAD_FAILED and what to do
    And no worker is listed

  Scenario: A load that hangs names its stage
    Given a queen I started with RBEE_WORKER_LOAD_TIMEOUT 3
    When I run rbee infer --model echo-stuck "x"
    Then the exit code is 124
    And stderr names LOADING_TIMEOUT and what to do
    And no worker is listed
