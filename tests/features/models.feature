Feature: Models are found, fetched, checked and weighed before they are loaded

  @s15
  Scenario: A model that is in the catalogue is not fetched again
    Given a hub with the model org/tiny
    And a queen I started
    When I run rbee model download hf:org/tiny
    Then the exit code is 0
    When the hub goes away
    And I run rbee infer --model hf:org/tiny --ignore-eos --max-tokens 4 "we"
    Then the exit code is 0
    When I run rbee model download hf:org/tiny
    Then the exit code is 0
    And stdout names already and home

  @s07 @s16 @s18 @s20 @s22
  Scenario: A download shows how far it is, ends checked and with its row in the catalogue
    Given a hub with the model org/tiny that sends 400000 bytes a second
    And nothing runs
    When I run rbee infer --model hf:org/tiny --ignore-eos --max-tokens 4 "we"
    Then the exit code is 0
    And stderr shows how far the download is
    And the catalogue has org/tiny:Q4_0 with its id, provider, ref, path, size and time
    And the catalogue says its architecture, context and hash as its file does
    When I run rbee model verify org/tiny:Q4_0
    Then the exit code is 0

  @s17
  Scenario: A connection that is reset at 40 % goes on from there
    Given a hub with the model org/tiny
    And its connection is reset once at 40 %
    And a queen I started
    When I run rbee model download hf:org/tiny
    Then the exit code is 0
    And the hub was asked for the rest from 40 % on
    And what came is what the hub has

  @s17 @s37
  Scenario: After six tries the download fails, and what came is there for the next one
    Given a hub with the model org/tiny that sends 1000000 bytes a second
    And a queen I started
    When I start rbee infer --model hf:org/tiny --ignore-eos --max-tokens 4 "we" in the background
    And a quarter of the model has come
    And the hub goes away
    Then it exits with 1
    And its stderr names DOWNLOAD_FAILED and 6 tries
    And a quarter of the model is kept
    When the hub comes back
    And I run rbee infer --model hf:org/tiny --ignore-eos --max-tokens 4 "we"
    Then the exit code is 0
    And the hub was asked for the rest only

  @s19
  Scenario: A model file is known by what is in it, not by its name
    Given the demo model under the name weights.bin and some text under the name fake.gguf
    And a queen I started
    When I run rbee infer with the file weights.bin
    Then the exit code is 0
    When I run rbee infer with the file fake.gguf
    Then the exit code is 1
    And stderr names MODEL_CORRUPTED and what to do

  @s21 @s23 @s25
  Scenario: Quantisations load, each with the memory of its size
    Given a hub with the demo model as Q4_0 and as Q8_0
    And a queen I started
    When I run rbee infer --model hf:org/demo:Q4_0 --max-tokens 2 "Hello"
    Then the exit code is 0
    When I run rbee infer --model hf:org/demo:Q8_0 --max-tokens 2 "Hello"
    Then the exit code is 0
    And each runs on llamacpp and takes memory by the size of its file

  @s26
  Scenario: A model in a form that the backend asked for does not run
    Given a hub with the model org/tensors as safetensors
    And a queen I started
    When I run rbee infer --model hf:org/tensors --backend llamacpp "we"
    Then the exit code is 1
    And stderr names MODEL_INCOMPATIBLE and what to do
    And stderr names safetensors and gguf
    And no worker was started

  @s24 @s38
  Scenario: A model that is too large for the machine is refused with amounts and a smaller one
    Given a hub with the model org/huge in 70 B parameters and in a small choice
    And a queen I started
    When I run rbee infer --model hf:org/huge:F16 "we"
    Then the exit code is 1
    And stderr names INSUFFICIENT_RAM and what to do
    And stderr names GiB and hf:org/huge:Q4_0
    And no worker was started
    And nothing of it was fetched

  @s33 @s42
  Scenario: A model that does not load in time names the stage it was in
    Given a queen I started with RBEE_WORKER_LOAD_TIMEOUT 0.05
    When I run rbee infer --model smollm2-135m --max-tokens 4 "Hello"
    Then the exit code is 124
    And stderr names LOADING_TIMEOUT and what to do
    And stderr names a stage of loading
    And no worker runs any more

  Scenario: Two who want the same model share one download
    Given a hub with the model org/tiny that sends 1500000 bytes a second
    And a queen I started
    When I run 3 times at once rbee model download hf:org/tiny
    Then all of them exit with 0
    And the hub has sent the model once

  Scenario: A model that its owner gives to members only
    Given a hub with the model org/tiny for members
    And a queen I started
    When I run rbee infer --model hf:org/tiny "we"
    Then the exit code is 1
    And stderr names FORBIDDEN and HF_TOKEN
    When I run rbee infer --model hf:org/nothing "we"
    Then the exit code is 1
    And stderr names MODEL_NOT_FOUND and what to do

  Scenario: Search shows what fits before anything is fetched
    Given a hub with the model org/tiny
    And a queen I started
    When I run rbee model search tiny
    Then the exit code is 0
    And stdout names org/tiny and Q4_0
    And nothing of it was fetched
