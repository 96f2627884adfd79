#!/usr/bin/env python3
"""Published chat templates and conversations as Hugging Face renders them: writes tests/data/chat_templates.json.

    pip install jinja2 && python3 tests/hf/chat_vectors.py tests/data/chat_templates.json

Jinja2 with the settings of transformers (trim_blocks, lstrip_blocks) is what apply_chat_template() runs.
"""
import json
import sys

from jinja2.sandbox import ImmutableSandboxedEnvironment

ALTERNATE = ("{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('Conversation roles must "
             "alternate user/assistant/user/assistant/...') }}{% endif %}")
CHATML = ("{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}"
          "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}")
TEMPLATES = {
    'chatml': "{% for message in messages %}" + CHATML,
    'qwen2': "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
             "{{ '<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n' }}{% endif %}" + CHATML,
    'qwen2-escaped': "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
                     "{{ '<|im_start|>system\\nYou are a helpful assistant.<|im_end|>\\n' }}{% endif %}" + CHATML,
    'llama2': "{% if messages[0]['role'] == 'system' %}{% set loop_messages = messages[1:] %}{% set system_message = "
              "messages[0]['content'] %}{% else %}{% set loop_messages = messages %}{% set system_message = false %}"
              "{% endif %}{% for message in loop_messages %}" + ALTERNATE +
              "{% if loop.index0 == 0 and system_message != false %}{% set content = '<<SYS>>\\n' + system_message + "
              "'\\n<</SYS>>\\n\\n' + message['content'] %}{% else %}{% set content = message['content'] %}{% endif %}"
              "{% if message['role'] == 'user' %}{{ bos_token + '[INST] ' + content.strip() + ' [/INST]' }}"
              "{% elif message['role'] == 'assistant' %}{{ ' '  + content.strip() + ' ' + eos_token }}{% endif %}"
              "{% endfor %}",
    'llama3': "{% set loop_messages = messages %}{% for message in loop_messages %}{% set content = '<|start_header_id|>' "
              "+ message['role'] + '<|end_header_id|>\n\n'+ message['content'] | trim + '<|eot_id|>' %}"
              "{% if loop.index0 == 0 %}{% set content = bos_token + content %}{% endif %}{{ content }}{% endfor %}"
              "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}",
    'mistral-0.1': "{{ bos_token }}{% for message in messages %}" + ALTERNATE + "{% if message['role'] == 'user' %}"
                   "{{ '[INST] ' + message['content'] + ' [/INST]' }}{% elif message['role'] == 'assistant' %}"
                   "{{ message['content'] + eos_token + ' ' }}{% endif %}{% endfor %}",
    'mistral-0.2': "{{ bos_token }}{% for message in messages %}" + ALTERNATE + "{% if message['role'] == 'user' %}"
                   "{{ '[INST] ' + message['content'] + ' [/INST]' }}{% elif message['role'] == 'assistant' %}"
                   "{{ message['content'] + eos_token }}{% endif %}{% endfor %}",
    'gemma': "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}"
             "{% endif %}{% for message in messages %}" + ALTERNATE +
             "{% if (message['role'] == 'assistant') %}{% set role = 'model' %}{% else %}{% set role = message['role'] %}"
             "{% endif %}{{ '<start_of_turn>' + role + '\n' + message['content'] | trim + '<end_of_turn>\n' }}"
             "{% endfor %}{% if add_generation_prompt %}{{'<start_of_turn>model\n'}}{% endif %}",
    'plain': "{% for message in messages %}{{ message['content'] }}{% endfor %}",
}
SYSTEM = {'role': 'system', 'content': 'Answer briefly.'}
TALK = [{'role': 'user', 'content': ' Who are you? '}, {'role': 'assistant', 'content': 'A model.'},
        {'role': 'user', 'content': 'Say <s> and <|im_end|> [INST].'}]
CONVERSATIONS = [TALK[:1], TALK, [SYSTEM] + TALK]


def refuse(message):
    raise ValueError(message)


env = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
env.globals['raise_exception'] = refuse
out = {}
for name, text in TEMPLATES.items():
    cases = []
    for messages in CONVERSATIONS:
        if messages[0] is SYSTEM and name.split('-')[0] in ('mistral', 'gemma'):
            continue
        # What people say is marked, so that the test can tell it from the template's own words.
        marked = [dict(m, content=m['content'].replace('<', '\u27e8')) for m in messages]
        rendered = env.from_string(text).render(messages=marked, bos_token='<s>', eos_token='</s>',
                                                add_generation_prompt=True)
        cases.append({'messages': messages, 'rendered': rendered})
    out[name] = {'template': text, 'cases': cases}
json.dump(out, open(sys.argv[1], 'w'), indent=1)
