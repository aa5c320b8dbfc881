package text

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"unicode/utf8"
)

// Columns is the most columns in output for people: the width of a terminal by default. A single
// word may be wider, because a path is not cut.
const Columns = 80

// Hanging writes text after head. Further lines begin below the beginning of text.
func Hanging(w io.Writer, head, text string) {
	indent := strings.Repeat(" ", utf8.RuneCountInString(head))
	for i, line := range Wrap(text, Columns-len(indent)) {
		if i > 0 {
			head = indent
		}
		fmt.Fprintln(w, strings.TrimRight(head+line, " "))
	}
}

// Glue is a space at which lines are not broken.
const Glue = "\u00a0"

// Wrap breaks text at its spaces into lines of at most width columns. It returns at least one line.
func Wrap(text string, width int) []string {
	var lines []string
	line, column := "", 0
	for _, word := range strings.FieldsFunc(text, func(r rune) bool {
		return r == ' ' || r == '\n'
	}) {
		n := utf8.RuneCountInString(word)
		if column > 0 && column+1+n > width {
			lines = append(lines, line)
			line, column = "", 0
		}
		if column > 0 {
			line, column = line+" ", column+1
		}
		line, column = line+strings.ReplaceAll(word, Glue, " "), column+n
	}
	return append(lines, line)
}

// Table writes rows below a head. If they are too wide, each row becomes a paragraph with a line
// for each of its cells.
func Table(w io.Writer, head []string, rows [][]string) error {
	var b strings.Builder
	tw := tabwriter.NewWriter(&b, 0, 8, 2, ' ', 0)
	for _, row := range append([][]string{head}, rows...) {
		fmt.Fprintln(tw, strings.Join(row, "\t"))
	}
	if err := tw.Flush(); err != nil {
		return err
	}
	for line := range strings.Lines(b.String()) {
		if utf8.RuneCountInString(strings.TrimRight(line, " \n")) > Columns {
			paragraphs(w, head, rows)
			return nil
		}
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// paragraphs writes rows whose first cells are their titles.
func paragraphs(w io.Writer, head []string, rows [][]string) {
	wide := 0
	for _, h := range head[1:] {
		wide = max(wide, utf8.RuneCountInString(h))
	}
	for _, row := range rows {
		Hanging(w, head[0]+": ", row[0])
		for i, cell := range row[1:] {
			name := head[1+i]
			pad := strings.Repeat(" ", wide-utf8.RuneCountInString(name))
			Hanging(w, "  "+name+pad+"  ", cell)
		}
	}
}

// Plural writes a number of things, whose plural ends in s: "1 time", "2 times".
func Plural[T ~int | ~int64 | ~uint64](n T, thing string) string {
	if n == 1 {
		return "1 " + thing
	}
	return fmt.Sprintf("%d %ss", n, thing)
}

// ShellWord makes one word for a shell, in quotes only if it needs them.
func ShellWord(s string) string {
	const plain = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-./:,@%+="
	if s != "" && strings.Trim(s, plain) == "" {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}
