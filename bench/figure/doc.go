// Package figure draws the results of experiments, as SVG for pages and PNG for everything else.
//
// The figures keep to a few rules, so that they can be trusted at a glance. Every single trial is a
// point, not only its median. Axes carry their units. Linear axes of quantities begin at 0, and
// logarithmic ones say so and have ticks at 1, 2 and 5 times the powers of ten. A policy has the
// same colour everywhere.
package figure
