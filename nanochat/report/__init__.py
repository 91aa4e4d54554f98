"""The report: reads the artefacts of finished stages and writes them up as markdown and html."""
