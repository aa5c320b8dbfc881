// Package abi is the tag port as both sides see it: where its registers are, what they hold, and
// the layout of the tag page. It has constants and no code, and it imports nothing.
//
// Package tagging, the host's side, and package guest, for programs in a guest, build on it. So a
// program that vendors package guest takes this package along, and nothing of the host. The header
// tag.h says the same in C; a test of package tagging compares the two.
//
// These numbers are a contract with programs that were compiled years ago. New registers and fields
// may be added in reserved places. Everything else stays as it is.
package abi
