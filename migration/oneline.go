package migration

import "strings"

// OneLine puts the text of an error, which has a line for each of several joined causes, on one
// line for reports, logs and answers.
func OneLine(text string) string { return strings.ReplaceAll(text, "\n", "; ") }
