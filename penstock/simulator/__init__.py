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
/v1/messages/batches, GET /v1/models, and /_sim/ for `control.Control`, which also
tells what was paid for, in batches and live. Options are in `options.Options`; each
is also a flag of the command. A deleted batch is no cursor of a list: a 404.

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
odd                 ends in NUL, quotes, a BOM and all that ends a line for somebody
expired, canceled   ends so, as a request of a batch
errored=TYPE        is this error of any type, as a request of a batch; with
                    `error_message="..."`
no_credit           is the invalid_request_error of an account without credit, as a
                    request of a batch
first=N             the last four hold for the first N times that a request with
                    these params is seen in a batch; after that it succeeds
==================  =============================================================

ActiveFaults are directives too, or are put in force with `Control.fault(...)`. K counts
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
==================  =============================================================

ActiveFaults of the creation of a batch, only by `Control.fault`. A body that ends before
its content-length never makes a batch.

==================  =============================================================
Fault               What happens
==================  =============================================================
commit_then_drop    the batch is made and the connection cut without an answer
commit_then_status  the batch is made and the answer is this error; with the details
=N                  of `status`
drop_before_commit  the connection is cut and no batch made
commit_after_s=S    the batch is made S seconds later, whether or not the client
                    waits; with `drop_before_commit` or `status` these come at once,
                    with `commit_then_drop` or `commit_then_status` after it is made,
                    else the usual answer does
==================  =============================================================

ActiveFaults of the results of a batch, only by `Control.fault`. They wait for a batch that
has ended. N counts lines from 0, or from the end when negative: -1 is the last line.

==================  =============================================================
Fault               What happens
==================  =============================================================
results_cut=N       the connection is cut after N bytes
results_end=N       the body ends properly after N lines
results_skip=N      line N is missing
results_double=N    line N comes once more, at the end
results_foreign=N   a line of custom_id `foreign` comes before line N
results_blank=N     a blank line comes before line N
results_lag         the batch, though ended, shows no results_url (not in the list),
                    and the results are a 404
==================  =============================================================

`crlf`, `chunk`, `slow_first` and `reset` go with them, and meet results alone with
`path="*/results"`. For one batch, name it: `path="/v1/messages/batches/ID/results"`.

`times=N` is how often a fault fires: 1 unless given, 0 without limit. A directive
is counted by its own text together with the first user text, so the same request
sent again succeeds. `after=N` lets N requests pass before. Of the faults with a
limit one fires for each request, in the order written, so that several make a
sequence. `Control.fault` also takes `path`, `method` and `model` (path and model
may hold `*`); without a path, a fault meets the requests it makes sense for, and
`status` and `slow_first` meet all.
"""
