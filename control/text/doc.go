// Package text wraps lines for people.
//
// All output for people fits [Columns], because a line that a terminal breaks in the middle of a
// word or a number is hard to read. So this package wraps lists and sentences, and turns each row
// of a table that is too wide into a paragraph.
package text
