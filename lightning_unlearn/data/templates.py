"""How a question becomes a prompt: plain question/answer, the tokenizer's chat template, Llama-2 tags, or a string of
one's own.

A template knows nothing of tokens. It puts the answer last and says where it lies. The space between prompt and answer
belongs to the answer: a prompt then reads the same whatever follows, so generation starts from the tokens that
training saw.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from lightning_unlearn.data.records import Record

QUESTION_ANSWER = "Question: {question}\nAnswer: "
TEMPLATES = ("qa", "chat", "llama2")


class Rendered(NamedTuple):
    """A row as text; the answer is the characters [answer_start, answer_end)."""

    text: str
    answer_start: int
    answer_end: int


class Template(Protocol):
    """Turns records into text."""

    @property
    def special_tokens(self) -> bool:
        """Whether the tokenizer must add its special tokens (false where the text already holds them)."""
        ...

    @property
    def end_token(self) -> str:
        """The token that ends an answer."""
        ...

    def prompt(self, record: Record, question: str) -> tuple[str, str]:
        """Return the prompt and what separates the answer from it."""
        ...


def render(template: Template, record: Record, *, question: str | None = None, answer: str | None = None) -> Rendered:
    """Return a record as text with the span of its answer; plain text has no prompt but what it begins with.

    Args:
        template: the prompt template.
        record: the record.
        question: asked in place of the record's question.
        answer: given in place of the record's answer.
    """
    question = record.question if question is None else question
    answer = record.answer if answer is None else answer
    prompt, separator = template.prompt(record, question) if question else ("", "")
    if record.prefill:
        prompt, separator = _apart(prompt + separator + record.prefill)
    text = prompt + separator + answer
    return Rendered(text, len(prompt), len(text))


def choose_template(template: str, tokenizer: Any) -> Template:
    """Return the template of that name, or one made from a string with "{question}".

    Args:
        template: "qa", "chat" (the tokenizer's own), "llama2", or a string such as "Q: {question} A: ".
        tokenizer: a Hugging Face tokenizer.

    Raises:
        ValueError: for another name, or "chat" with a tokenizer that has no chat template.
    """
    if template == "chat":
        return ChatTemplate(tokenizer)
    if template == "llama2":
        return Llama2Template(tokenizer.bos_token or "", tokenizer.eos_token)
    if template == "qa" or "{question}" in template:
        return TextTemplate(QUESTION_ANSWER if template == "qa" else template, tokenizer.bos_token, tokenizer.eos_token)
    names = ", ".join(TEMPLATES)
    raise ValueError(f'template must be one of {names}, or a string that contains "{{question}}"; got "{template}"')


@dataclass(frozen=True)
class TextTemplate:
    """A string with "{question}"; the answer follows it."""

    pattern: str
    bos_token: str | None
    end_token: str

    @property
    def special_tokens(self) -> bool:
        """Whether the pattern leaves the beginning-of-sequence token to the tokenizer."""
        return not (self.bos_token and self.pattern.startswith(self.bos_token))

    def prompt(self, record: Record, question: str) -> tuple[str, str]:
        """Return the filled pattern; earlier turns of a chat come before it."""
        turns = []
        for turn in record.messages:
            content = turn["content"]
            turns.append(self._fill(content) if turn["role"] == "user" else content + "\n")
        return _apart("".join(turns) + self._fill(question))

    def _fill(self, question: str) -> str:
        return self.pattern.replace("{question}", question)


@dataclass(frozen=True)
class Llama2Template:
    """Llama-2's tags: "[INST] question [/INST] answer", a system turn inside the first "[INST]"."""

    bos_token: str
    end_token: str
    special_tokens: bool = True

    def prompt(self, record: Record, question: str) -> tuple[str, str]:
        """Return the tagged question after earlier turns; the tokenizer adds the first beginning-of-sequence token."""
        text, system = "", ""
        for turn in (*record.messages, {"role": "user", "content": question}):
            if turn["role"] == "system":
                system = f"<<SYS>>\n{turn['content']}\n<</SYS>>\n\n"
            elif turn["role"] == "user":
                text, system = f"{text}[INST] {system}{turn['content']} [/INST]", ""
            else:
                text += f" {turn['content']} {self.end_token}{self.bos_token}"
        return text, " "


class ChatTemplate:
    """The tokenizer's own chat template, which writes every special token itself.

    The answer ends with the token that the template puts after an assistant's turn, which is not always the
    tokenizer's eos.

    Raises:
        ValueError: if the tokenizer has no chat template.
    """

    special_tokens = False

    def __init__(self, tokenizer: Any) -> None:
        if not getattr(tokenizer, "chat_template", None):
            raise ValueError(
                f'template="chat" needs a tokenizer with a chat template, got {type(tokenizer).__name__} '
                f'"{tokenizer.name_or_path}" without one; use template="qa"'
            )
        self._tokenizer = tokenizer
        self.end_token = self._turn_end()

    def prompt(self, record: Record, question: str) -> tuple[str, str]:
        """Return the chat up to where the assistant answers.

        Raises:
            ValueError: if the chat template refuses the turns.
        """
        turns = [*record.messages, {"role": "user", "content": question}]
        return self._apply(turns, record.source, add_generation_prompt=True), ""

    def _turn_end(self) -> str:
        probe = "probe"
        turns = [{"role": "user", "content": "?"}, {"role": "assistant", "content": probe}]
        rest = self._apply(turns, "probe").rpartition(probe)[2].strip()
        ids = self._tokenizer(rest, add_special_tokens=False).input_ids if rest else []
        special = [i for i in ids if i in self._tokenizer.all_special_ids or i in self._tokenizer.added_tokens_decoder]
        return self._tokenizer.convert_ids_to_tokens(special[0]) if special else self._tokenizer.eos_token

    def _apply(self, turns: list[dict[str, str]], source: str, *, add_generation_prompt: bool = False) -> str:
        import jinja2

        try:
            return self._tokenizer.apply_chat_template(
                turns, tokenize=False, add_generation_prompt=add_generation_prompt
            )
        except jinja2.TemplateError as error:
            roles = [turn["role"] for turn in turns]
            raise ValueError(f"{source or 'record'}: the chat template refuses turns {roles}: {error}") from error


def _apart(text: str) -> tuple[str, str]:
    """Cut off the spaces at the end, which belong to the answer."""
    prompt = text.rstrip(" ")
    return prompt, text[len(prompt) :]
