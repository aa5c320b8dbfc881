// Package readme checks README.md against the program: it runs the tour as a reader would, and
// fails where the page and the program differ.
//
// # The convention
//
// A block that is fenced with ```console is part of the tour; others are not run. In it:
//
//	$ COMMAND         is typed into bash, in the project's folder, with vmm on the PATH; a line that
//	                  ends with \ goes on in the next one, which may begin with "> "
//	anything else     is what the command prints, on either stream
//
// A command must end with status 0, and print each line that the page shows, in that order. Lines
// that the page leaves out do not matter, nor does the value of a number or how much space is
// between words, and "..." stands for any text. A command that begins with `vmm run` goes on while
// the next ones run, as in a terminal of its own; it has begun once it printed what the page shows
// and `vmm status` answers. When the tour is over, what still runs is stopped, and each must have
// ended with status 0.
package readme
