"""A local stand-in for the Anthropic API: Messages, their streams, and Message Batches.

Run it, and point any client at the line it prints::

    $ python -m penstock.simulator --port 8080 --rate 40
    http://127.0.0.1:8080
    $ ANTHROPIC_BASE_URL=http://127.0.0.1:8080 ANTHROPIC_API_KEY=any your-program

Every key is accepted but `invalid`. The answer to a conversation is a function
of its model and of the first text of its first user message, directives left
out: asked again, streamed, whole or in a batch, it is the same text. Where an
answer was begun and the conversation shows it, as an assistant's message at the
end (Claude 4.5 models) or quoted in a further user text, the answer goes on
from there. With `tools` a tool is called; with `thinking` a thought comes first.

It serves POST /v1/messages, POST /v1/messages/count_tokens, all of
/v1/messages/batches, GET /v1/models, and /_sim/ for `control.Control`. Options
are in `options.Options`; each is also a flag of the command.

What a request wants is written into any of its user texts, as in
`Hello [[sim deltas=20 rate=5 disconnect_after=7]]`. A value with spaces is
quoted as in JSON. Unknown keys are a 400.

==================  =============================================================
Directive           The answer
==================  =============================================================
deltas=N            has N text deltas (a delta of 16 characters or fewer is one
                    token: max_tokens has to allow N)
chars=N             has N characters in each text delta
rate=R              is written at R deltas a second; 0 as fast as possible
text="..."          is this text
stop_reason=S       ends for this reason
stamp               has `time.monotonic_ns()` and a space as the text of each
                    delta, taken when it is written
overlap=K           repeats the last K characters of a quoted beginning
tool, thinking      calls a tool, thinks first
u2028               contains U+2028 and U+0085
expired, canceled   ends so, as a request of a batch
errored=TYPE        is this error, as a request of a batch
==================  =============================================================

Faults are directives too, or are put in force with `Control.fault(...)`. K counts
`content_block_delta` events of any block; it may be `last`, or negative to count
from the end, or `stop`: just before message_stop. A message that is not streamed
breaks off in the middle of its body.

==================  =============================================================
Fault               What happens
==================  =============================================================
status=N            the answer is this error; with `retry_after=S`,
                    `error_type=T`, `error_code=C`, `message="..."`
slow_first=S        the first byte comes S seconds late
disconnect_after=K  the connection is cut after K deltas, the body without its end
reset               ... and by a TCP reset, which may take bytes on the way along
drop_mid_char=K     the connection is cut inside the first character of several
                    bytes from delta K on; without K anywhere
eof_after=K         the body ends properly after K deltas, without message_stop
error_after=K       an `error` event comes after K deltas, of `error_type=T`
                    (overloaded_error), and the body ends
stall_after=K       nothing comes for `stall=S` seconds (an hour) after K deltas
chunk=N             the body is cut into N-byte writes, also inside characters
crlf                lines end in CR LF
commit_then_drop    the batch is made and the connection cut without an answer
drop_before_commit  the connection is cut and no batch made
results_cut=N       the connection is cut after N bytes of a batch's results
==================  =============================================================

The last three only by `Control.fault`. `times=N` is how often a fault fires: 1
unless given, 0 without limit. A directive is counted by its own text together
with the first user text, so the same request sent again succeeds. `after=N` lets
N requests pass before. Of the faults with a limit one fires for each request, in
the order written, so that several make a sequence. `Control.fault` also takes
`path`, `method` and `model` (path and model may hold `*`); without a path, a fault
meets the requests it makes sense for, and `status` and `slow_first` meet all.
"""
