Feature: Errors, installation, settings

  @s53
  Scenario Outline: Every error has a code, a message and what to do
    Given a queen I started
    When I send <method> <path> with <body>
    Then the answer has status <status> and code <code> with a suggested action

    Examples:
      | method | path                 | body                                                          | status | code             |
      | POST   | /v1/jobs             | {"operation":"dance"}                                         | 400    | VALIDATION_ERROR |
      | POST   | /v1/jobs             | {"operation":"infer","model":"echo"}                          | 400    | VALIDATION_ERROR |
      | POST   | /v1/jobs             | {"operation":"infer","model":"echo","prompt":"x","temprature":1} | 400 | VALIDATION_ERROR |
      | POST   | /v1/jobs             | {"operation":"infer","model":"nope","prompt":"x"}             | 404    | MODEL_NOT_FOUND  |
      | POST   | /v1/jobs             | {"operation":"infer","model":"echo","prompt":"x","hive":"attic"} | 404 | HIVE_NOT_FOUND   |
      | POST   | /v1/jobs             | {"operation":"infer","model":"echo","prompt":"x","max_tokens":100000} | 400 | CONTEXT_LENGTH_EXCEEDED |
      | GET    | /v1/jobs/job-nope    | -                                                             | 404    | NOT_FOUND        |
      | DELETE | /v1/jobs/job-nope    | -                                                             | 404    | NOT_FOUND        |
      | GET    | /v1/workers/w-99     | -                                                             | 404    | NOT_FOUND        |
      | POST   | /v1/worker-heartbeat | {}                                                            | 401    | MISSING_API_KEY  |
      | POST   | /v1/chat/completions | {"model":"echo","messages":[]}                                | 400    | VALIDATION_ERROR |
      | POST   | /v1/chat/completions | {"model":"echo","messages":[{"role":"user","content":"x"}],"tools":[{}]} | 400 | VALIDATION_ERROR |

  Scenario: The command line prints an error on two lines, and as an object when asked
    Given a queen I started
    When I run rbee infer --model nope "x"
    Then the exit code is 1
    And stderr names MODEL_NOT_FOUND and what to do
    When I run rbee infer --json --model nope "x"
    Then the exit code is 1
    And stdout is an error body with MODEL_NOT_FOUND

  @s54
  Scenario: A user's installation
    Given nothing runs
    When I run rbee config init
    Then the exit code is 0
    And the settings file is there with every default
    When I run rbee config paths --json
    Then the exit code is 0
    And the paths are this user's

  @s55
  Scenario: A system installation needs rights
    Given I am a user without rights
    When I run rbee config init --system
    Then the exit code is 1
    And stderr names FORBIDDEN and what to do

  @s56
  Scenario: Flag before environment before file before default
    Given a settings file that sets queen.linger to 11 and worker.ctx to 1024
    And the environment sets RBEE_QUEEN_LINGER to 22
    When I run rbee config show --json
    Then queen.linger is 22 from RBEE_QUEEN_LINGER
    And worker.ctx is 1024 from the file
    And queen.host is 127.0.0.1 from default

  Scenario: An unknown setting names the nearest known one
    Given a settings file that sets queen.lingr to 11 and worker.ctx to 1024
    When I run rbee config show
    Then the exit code is 2
    And stderr names SETTINGS_ERROR and queen.linger

  @s44
  Scenario: A wrong key is refused, and says where it is set
    Given a queen I started
    And a keeper with the key rbee_wrong for her
    When I run rbee infer --model echo "hello"
    Then the exit code is 1
    And stderr names INVALID_API_KEY and what to do
    And stderr names RBEE_API_KEY and set
    And stderr does not have rbee_wrong
    When I make a key anna and use it instead
    And I run rbee infer --model echo "hello"
    Then the exit code is 0
    And stdout is "hello"
