"""The commands, one module each; a script at the top of the checkout calls each."""

from thfuse_sam.interrupts import report_interrupts_in_one_line

report_interrupts_in_one_line()
