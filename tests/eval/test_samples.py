from nanochat.eval.samples import GREEDY, PROMPTS, sample
from nanochat.infer.engine import Engine


def test_each_prompt_is_continued_as_a_document(model, tokenizer):
    engine = Engine(model, tokenizer, max_rows=2, tools=None)
    samples = sample(engine, tokenizer)
    assert [one.prompt for one in samples] == list(PROMPTS)
    for one in samples:
        [alone] = engine.generate([[tokenizer.bos, *tokenizer.encode(one.prompt)]], GREEDY)
        assert one.text == alone.text
    assert any(one.text for one in samples)
