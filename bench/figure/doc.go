// Package figure draws what experiments found, as SVG for pages and PNG for everything else.
//
// The figures keep to a few rules, so that they can be trusted at a glance: every single trial is a point, not only
// its median; axes carry their units; linear axes of quantities begin at 0, and logarithmic ones say so and have ticks at 1, 2
// and 5 times the powers of ten; a policy has the same colour everywhere.
package figure
