Feature: Who waits, for how long, and why

  @s11 @s35
  Scenario: A busy worker is waited for, or not, as one likes
    Given workers with 1 slot
    And a queen I started
    And a client A with 1 answer under way and 2 questions waiting
    When I run rbee infer --model echo --no-wait "now or never"
    Then the exit code is 1
    And stderr names ALL_SLOTS_BUSY and all 1 slot(s) of 1 worker(s)
    When I run rbee job queue
    Then the exit code is 0
    And stdout names A and slot(s)
    When I send POST /v1/jobs with {"operation":"infer","model":"echo","prompt":"x"}
    Then I am told my place in the queue, and a time
    When the answer under way is cancelled
    Then everyone is answered

  @s41
  Scenario: A full queue is said at once, and when to come back
    Given workers with 1 slot
    And room for 2 in the queue
    And a queen I started
    And a client A with 1 answer under way and 2 questions waiting
    When I send POST /v1/jobs with {"operation":"infer","model":"echo","prompt":"x"}
    Then the answer has status 429 and code QUEUE_FULL with a suggested action
    And it says when to come back
    When I send POST /v1/chat/completions with {"model":"echo","messages":[{"role":"user","content":"x"}]}
    Then it says when to come back
    When the answer under way is cancelled
    And everyone is answered
    When I run rbee infer --model echo "there is room again"
    Then the exit code is 0
    And stdout is "there is room again"

  Scenario: Forty questions of one client do not hold up another's only one
    Given workers with 1 slot
    And a queen I started
    And a client A with 1 answer under way and 40 questions waiting
    And a client B with 1 question waiting
    When the answer under way is cancelled
    Then everyone is answered
    And the question of B was answered before all but 2 of A's

  Scenario: A person goes before a batch, and a batch gives way and goes on
    Given workers with 1 slot
    And interactive work waits for 1 second at most
    And a queen I started
    And a batch answer under way and 3 more in the queue
    When I run rbee infer --model echo "a person asks"
    Then the exit code is 0
    And stdout is "a person asks"
    And the batch answer has not ended yet
    And everyone is answered
    And the batch answer was put back once and is whole
    And it is counted in rbee_preemptions_total

  @s60
  Scenario: A worker that is drained ends what it does, and others do the rest
    Given workers with 1 slot
    And a queen with the machines attic and cellar
    And a worker with echo on attic
    When I start rbee infer --model echo "@delay=1000 one two three four five six seven eight nine ten" in the background
    And it has printed "two"
    And I ask rbee worker health about the worker
    Then the exit code is 0
    And stdout names busy and 1/1
    When the worker is drained
    And I ask rbee worker health about the worker
    Then the exit code is 1
    And stdout names draining and attic
    When I run rbee infer --model echo "somewhere else"
    Then the exit code is 0
    And stdout is "somewhere else"
    And another worker answered
    And it exits with 0
    And its stdout is "one two three four five six seven eight nine ten"
    And it was answered by the drained worker alone
    And the drain ends and the worker's process is gone

  @s45 @s48
  Scenario: An idle worker gives its memory back
    Given a queen I started with RBEE_WORKER_KEEP_ALIVE 1
    And an echo was answered
    When its worker has been idle for too long
    Then its process is gone and its hive stays
    When I run rbee infer --model echo "cold again"
    Then the exit code is 0
    And stdout is "cold again"
    And another worker answered

  Scenario: Why a job is where it is
    Given a queen with the machines attic and cellar
    And a worker with echo on attic
    And an answer that must be on cellar's cuda:0, where there is none
    Then it was refused with the sentence of that place
    When I ask rbee why about the job
    Then the exit code is 0
    And it tells me that sentence
    And its decision is there as JSON, with every place
