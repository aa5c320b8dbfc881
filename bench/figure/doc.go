// Package figure draws the results of experiments, as SVG for pages and PNG for everything else.
//
// The figures keep to a few rules, so that they can be trusted at a glance. Every single trial is a
// point, not only its median. Axes carry their units. Linear axes of quantities begin at 0, and
// logarithmic ones say so and have ticks at 1, 2 and 5 times the powers of ten. A name has
// the same colour in all figures of a report, and guided, unguided and QEMU have theirs in all
// reports.
package figure
