'''Findings as one self-contained HTML page, a JSON of every figure and files beside it.

An `Audit` holds the model, the examples and what has been found; a `Stage` looks at it and gives a `Section`;
`run` runs the stages and assembles the `Page`; `Page.write` writes it. The verb `unveil.report` does all
of that.

To add a section, write one file in `sections/`, say `stability.py`, and one line in `stages.py`:

    from unveil.audit.stage import Audit, Stage
    from unveil.audit.chart import Chart
    from unveil.audit.section import Section
    from unveil.outcome import Outcome

    _BODY = """
    <figure>{{ values.chart }}<figcaption>Singular values of the first layer.</figcaption></figure>
    <p>Its condition number is {{ figure("condition") }}.</p>
    """

    def _run(audit: Audit) -> Section | None:
        network = audit.findings.get("network")      # left by an earlier stage
        if network is None:
            return None                              # nothing to tell: no section
        from unveil.whitebox.stability import stability   # heavy imports stay inside

        found = stability(network, audit.examples(100))
        audit.findings["stability"] = found          # for later stages
        return Section(
            key="stability",
            title="How unstable the way back is",
            verdict="A change of one part in 3,000 of its features can stand for any change of the input.",
            body=_BODY,
            values={"chart": Chart(x=(0, 80), y=(1e-3, 1), log=True, label="...").points(number, size).svg()},
            figures={"condition": found.condition},  # the JSON's `stability.condition`, and the page's number
            claim="loses 704 directions in its first layer",  # for the headline; "" if nothing belongs there
            outcome=Outcome.complete,                # how it ended; page, JSON and exit code follow
            cause="",                                # why it is not measured and checked, if it is not
        )

    STABILITY = Stage(key="stability", title="Looking at the way back", run=_run, flag="--stability",
                      help="How unstable the way back from features to inputs is.")

How far a finding can be relied on is told in one place, `unveil.audit.verdict`: a section says how it ended, and the
headline, its status, the JSON and the exit code follow. A section that shows an earlier one to be wrong says so in
`refutes`.

A stage with `flag` is run when `unveil audit` gets that option, which it has from then on; one without always runs.
Text from outside goes into `values`, `verdict` or `figures`, never into `body`: the page escapes all of those.
A number shown through `figure(path)` is the JSON's number; show numbers that way. `draw_input` draws an input;
`Chart` draws in the page's own colours. Matplotlib figures work too: put an `<img>` with a data: address into `values`.
'''
