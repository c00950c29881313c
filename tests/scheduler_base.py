"""The parent of our scheduler as vLLM has it, without vLLM: requests, steps, outputs."""

from dataclasses import dataclass, field
from types import SimpleNamespace

PROMPT = 5  # tokens


@dataclass(eq=False)
class Request:
    """A request that ends after so many tokens."""

    request_id: str
    max_tokens: int = 1000
    prompt: int = PROMPT
    spec_token_ids: list = field(default_factory=list)
    num_output_tokens: int = 0
    begun: bool = False


class Base:
    """The parent: a table of draft lengths, admission, and outputs as vLLM makes them."""

    def __init__(self, *, longest=4, seqs=8, budget=64, table=True, stats=True):
        self.num_spec_tokens = longest
        self.dynamic_sd_lookup = [0, *[longest] * seqs] if table else None
        self.max_num_running_reqs = self.max_num_active_reqs = seqs
        self.max_num_scheduled_tokens = budget
        self.running, self.waiting, self.requests = [], [], {}
        self.stats = stats
        self.invalid = {}  # drafts of the next step that a grammar refuses
        self.calls = []

    def add_request(self, request):
        self.calls.append("add_request")
        self.requests[request.request_id] = request
        self.waiting.append(request)

    def abort(self, request_id):
        """What a client's leaving does."""
        request = self.requests.pop(request_id)
        for queue in (self.running, self.waiting):
            if request in queue:
                queue.remove(request)

    def schedule(self, *args, **kwargs):
        self.calls.append("schedule")
        # versions of vLLM before 0.31 have no such number
        most = getattr(self, "max_num_active_reqs", self.max_num_running_reqs)
        while self.waiting and len(self.running) < most:
            self.running.append(self.waiting.pop(0))
        assert len(self.running) <= self.max_num_running_reqs
        tokens, drafts, left = {}, {}, self.max_num_scheduled_tokens
        for request in self.running:
            name = request.request_id
            wanted = 1 + len(request.spec_token_ids) if request.begun else request.prompt
            if wanted > left:
                continue
            tokens[name], left = wanted, left - wanted
            if request.begun and request.spec_token_ids:
                drafts[name] = request.spec_token_ids
        k = self.num_spec_tokens
        if self.dynamic_sd_lookup is not None and tokens:
            k = self.dynamic_sd_lookup[len(tokens)]
        invalid, self.invalid = self.invalid, {}
        return SimpleNamespace(
            num_scheduled_tokens=tokens,
            total_num_scheduled_tokens=sum(tokens.values()),
            scheduled_spec_decode_tokens=drafts,
            num_invalid_spec_tokens=invalid or None,
            num_spec_tokens_to_schedule=k,
        )

    def update_from_output(self, output, accepted):
        """`accepted` is how many drafts the model took of every request, or a number by request."""
        self.calls.append("update_from_output")
        outputs, spec = [], None
        for name in output.num_scheduled_tokens:
            request = self.requests.get(name)
            if request is None:  # aborted while the model ran
                continue
            drafted = len(output.scheduled_spec_decode_tokens.get(name, ()))
            taken = min(accepted if isinstance(accepted, int) else accepted[name], drafted)
            if drafted and self.stats:
                spec = spec or SimpleNamespace(num_draft_tokens=0, num_accepted_tokens=0)
                spec.num_draft_tokens += drafted - (output.num_invalid_spec_tokens or {}).get(
                    name, 0
                )
                spec.num_accepted_tokens += taken
            new = min(1 + taken, request.max_tokens - request.num_output_tokens)
            request.num_output_tokens += new
            request.begun = True
            request.spec_token_ids = [7] * output.num_spec_tokens_to_schedule
            outputs.append(SimpleNamespace(request_id=name, new_token_ids=[7] * new))
            if request.num_output_tokens == request.max_tokens:
                self.abort(name)
        if not outputs:
            return {}
        stats = SimpleNamespace(spec_decoding_stats=spec) if self.stats else None
        return {0: SimpleNamespace(outputs=outputs, scheduler_stats=stats)}
