// Package tagging is the host's side of task guidance: the tag port through which
// programs in a guest say when they are easy to migrate.
package tagging
