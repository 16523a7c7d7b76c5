"""Find responses that say which system or vendor wrote them, which would end the blindness of a rating.

A name that the prompt holds too is its topic, not a signature. Names that are also ordinary words count only as they
are spelled here.
"""

import re

_ANY_CASE = (
    "openai", "chatgpt", r"gpt[- ]?[345](?:\.\d)?(?:[- ]?(?:turbo|mini))?", "gpt-4o", "instructgpt", "davinci",
    "anthropic", "deepmind", "google ai", "google assistant", "lamda", "meta ai", "vicuna", "lmsys", "mixtral",
    "mistral ai", "cohere ai", "command-r", "qwen", "tongyi", "alibaba cloud", "deepseek", "moonshot ai", "baichuan",
    "chatglm", "zhipu", "internlm", "stablelm", "stability ai", "open[- ]?assistant", "laion", "hugging ?face",
    r"01\.ai", "t[uü]lu", "bing chat", "github copilot", "microsoft copilot", "xai", "ernie bot", "baidu",
    r"llama[- ]?[23](?:\.\d)?", r"flan[- ]?t5",
)  # fmt: skip
_AS_SPELLED = (
    "Claude", "Gemini", "Bard", "PaLM(?: 2)?", "Gemma", "Llama", "LLaMA", "Alpaca", "Koala", "Dolly", "Falcon", "Mistral",
    "BLOOMZ?", "Kimi", "Grok", "Pythia", "Bing", "Copilot", "Siri", "Alexa", "Cortana",
)  # fmt: skip
_PATTERNS = (
    re.compile(rf"(?<![\w-])(?:{'|'.join(_ANY_CASE)})(?![\w])", re.IGNORECASE),
    re.compile(rf"(?<![\w-])(?:{'|'.join(_AS_SPELLED)})(?![\w])"),
)
_LONGEST = 80


def named_system(response: str, prompt: str) -> str:
    """Return the first name of a system or vendor in a response that its prompt does not hold, "" when there is none."""
    known = prompt.casefold()
    found = (match for pattern in _PATTERNS for match in pattern.finditer(response))
    names = sorted((match.start(), match.group()) for match in found if match.group().casefold() not in known)
    return names[0][1][:_LONGEST] if names else ""
