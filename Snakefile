from snakemake.utils import min_version

min_version("9.20")


report: "workflow/report/workflow.rst"


container: "docker://condaforge/miniforge3:24.7.1-2"  # `--sdm conda apptainer` makes the environments inside it


include: "workflow/rules/common.smk"  # reads the config
include: "workflow/rules/paths.smk"
include: "workflow/rules/params.smk"
include: "workflow/rules/fetch.smk"
include: "workflow/rules/prepare.smk"
include: "workflow/rules/measure.smk"
include: "workflow/rules/calibrate.smk"
include: "workflow/rules/merge.smk"
include: "workflow/rules/evaluate.smk"
include: "workflow/rules/subset_inputs.smk"
include: "workflow/rules/subsets.smk"
include: "workflow/rules/report_inputs.smk"
include: "workflow/rules/report.smk"


rule all:
    default_target: True
    input:
        wanted(),
