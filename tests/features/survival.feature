Feature: Streams that outlive their worker

  @s39
  Scenario: The answer of a killed worker goes on on another machine
    Given a queen with the machines attic and cellar
    And a worker with echo on attic
    When I start rbee infer --model echo "@delay=100 one two three four five six seven eight nine ten" in the background
    And it has printed "three"
    And the worker is killed with SIGKILL
    Then it exits with 0
    And its stdout is "one two three four five six seven eight nine ten"
    And its stderr names was lost after and cellar
    And its stream is whole and was begun on attic and ended on cellar
    When I ask rbee why about the job
    Then the exit code is 0
    And stdout names attic and cellar

  @s39
  Scenario: A real model says the same words as if nothing had happened
    Given a queen I started
    When I run rbee infer --model smollm2-135m --seed 7 --deterministic --ignore-eos --max-tokens 100 "Tell me of bees."
    And I start rbee infer --model smollm2-135m --seed 7 --deterministic --ignore-eos --max-tokens 100 "Tell me of bees." in the background
    And its answer has 12 tokens
    And the worker is killed with SIGKILL
    Then it exits with 0
    And both answers are the same
    And its stream is whole and it was resumed once

  @s39
  Scenario: When its tries are used up, what was said is kept and it can be asked again
    Given a queen I started with RBEE_JOB_ATTEMPTS 1
    When I start rbee infer --model echo "@delay=100 one two three four five six seven eight" in the background
    And it has printed "three"
    And the worker is killed with SIGKILL
    Then it exits with 1
    And its stderr names WORKER_CRASHED and tried once
    And its stdout begins with "one two three"
    And its stream is whole and ends with error
    And the job has kept what was printed
    When I run rbee job list --dead
    Then the exit code is 0
    And stdout names the job and WORKER_CRASHED
    When I ask rbee job retry about the job with --follow
    Then the exit code is 0
    And stdout is "one two three four five six seven eight"
    When I run rbee job list --dead
    Then stdout names the job and WORKER_CRASHED

  Scenario: A machine that dies takes no answer with it
    Given a queen with the machines attic and cellar
    And a worker with echo on attic
    When I start rbee infer --model echo "@delay=100 one two three four five six seven eight nine ten" in the background
    And it has printed "three"
    And the machine attic dies
    Then it exits with 0
    And its stdout is "one two three four five six seven eight nine ten"
    And its stream is whole and was begun on attic and ended on cellar

  Scenario: A queen that is killed and started again keeps her readers
    Given a queen with the machines attic and cellar
    And a worker with echo on attic
    When I start rbee infer --model echo "@delay=100 one two three four five six seven eight nine ten" in the background
    And it has printed "three"
    And the queen is killed and started again
    Then it exits with 0
    And its stdout is "one two three four five six seven eight nine ten"
    And its stream is whole and it was resumed once

  @s61
  Scenario: Stopping a worker that answers moves its answer
    Given a queen with the machines attic and cellar
    And a worker with echo on attic
    When I start rbee infer --model echo "@delay=100 one two three four five six seven eight nine ten" in the background
    And it has printed "three"
    And I ask rbee worker stop about the worker
    Then the exit code is 0
    And the worker's process is gone
    And it exits with 0
    And its stdout is "one two three four five six seven eight nine ten"

  Scenario: A link that is cut is taken up again
    Given a queen with the machine attic behind a line that can be cut
    And a worker with echo on attic
    When I start rbee infer --model echo "@delay=200 one two three four five six seven eight nine ten" in the background
    And it has printed "two"
    And the line is cut
    And the queen says that attic is offline
    And the line is mended
    Then it exits with 0
    And its stdout is "one two three four five six seven eight nine ten"
    And the worker is there again
