"""Everything that a survey of label images shows."""

from __future__ import annotations

from freqkd_cli.doctor import label_errors, label_warnings
from freqkd_cli.doctor.finding import Finding
from freqkd_cli.doctor.survey import Survey
from freqkd_cli.images.file_dataset import FileDataset


def findings(dataset: FileDataset, survey: Survey) -> tuple[Finding, ...]:
    """Return every problem that a survey shows, errors first."""
    doubt = label_errors.contradicted(dataset, survey)
    errors = (
        label_errors.broken(survey),
        label_errors.misfits(dataset, survey),
        label_errors.rgb_colors(dataset, survey),
        label_errors.rejected(dataset, survey),
        label_errors.bits(dataset, survey),
        doubt,
    )
    # Void pixels and the ground mean nothing where 255 itself is in doubt, nor do empty
    # classes where values are misread.
    misread = doubt is not None or survey.rejected or survey.colored
    warnings = (
        None if doubt else label_warnings.void(dataset, survey),
        None if misread else label_warnings.absent(dataset, survey),
        label_warnings.palettes(dataset, survey),
        None if doubt else label_warnings.ground(dataset, survey),
    )
    return tuple(finding for finding in (*errors, *warnings) if finding is not None)
