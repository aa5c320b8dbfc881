// Command tagged runs in a Linux guest, and finds out there whether migrations heed tags:
//
//	tagged task NAME      a program with segments, which looks where the machine moved
//	tagged pattern NAME   fills memory, and looks whether it stays as it was
//	tagged kills SEED     runs vmm-tag's daemon and programs, and kills them at random moments
//	tagged clients        asks redis and http-echo, and checks their answers
//	tagged bench          measures what a tag costs while no migration goes on
//	tagged ringing        the same while one waits, when tags ask the daemon
//
// A line with FAULT says that something is wrong. Folder c has the first of them in C, and
// stretch.sh and script.sh are the same for vmm-tag exec.
//
// # How a guest can tell
//
// The register EPOCH counts the moves of the machine, and the daemon tells it to every program. A
// program reads it after each EXIT and before the next ENTER. In between it is outside of a
// segment, so the two are the same unless the machine moved when it should not have. What the
// program does not see is a move between an EXIT and the reading after it.
package main
