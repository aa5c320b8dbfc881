// Package show writes what a person wants to see of a migration or a VM: the table of rounds as
// they complete, a live line below it on a terminal, and the outcome.
//
// [Progress] comes in two forms for the two kinds of output: [NewLive] redraws its last line and
// belongs on a terminal, [NewPlain] only ever adds lines and belongs in a file or a pipe.
package show
