package bench

import (
	"bytes"
	"fmt"
	"io"
	"strings"
	"unicode"
)

// Format is a form of the report.
type Format string

// The formats. Each has a file of its own.
const (
	HTML     Format = "html"
	Markdown Format = "markdown"
	LaTeX    Format = "latex"
)

// Formats lists all formats, the default first.
var Formats = []Format{HTML, Markdown, LaTeX}

// formats say how a page is written, and the name of its file.
var formats = map[Format]struct {
	file  string
	write func(io.Writer, page) error
}{
	HTML:     {reportFile, func(w io.Writer, p page) error { return reportTemplate.Execute(w, p) }},
	Markdown: {"report.md", writeMarkdown},
	LaTeX:    {"report.tex", writeLaTeX},
}

// render writes a page in a format.
func render(p page, format Format) (file string, text []byte, err error) {
	f, known := formats[format]
	if !known {
		return "", nil, fmt.Errorf("format %q is unknown", format)
	}
	var b bytes.Buffer
	if err := f.write(&b, p); err != nil {
		return "", nil, fmt.Errorf("write the report: %w", err)
	}
	return f.file, b.Bytes(), nil
}

// writeMarkdown writes a page in the form that code hosts show: pictures are files beside it.
func writeMarkdown(w io.Writer, p page) error {
	var b strings.Builder
	paragraph := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n\n", args...) }
	paragraph("# %s", markdown(p.Title))
	paragraph("%s", markdown(p.opening()))
	for _, banner := range p.Banners {
		paragraph("> **%s** %s.", banner.Kind, markdown(banner.Text))
	}
	list(&b, p.Headlines)
	markdownTable(&b, p.Lead)
	if p.Command != "" {
		paragraph("Reproduce with %s.", markdownCode(p.Command))
	}
	for _, f := range p.Facts {
		fmt.Fprintf(&b, "- %s: %s\n", markdown(f[0]), markdown(f[1]))
	}
	b.WriteString("\n")
	for _, s := range p.Sections {
		paragraph("## %s", markdown(s.Title))
		for _, t := range s.Text {
			paragraph("%s", markdown(t))
		}
		for _, f := range s.Figures {
			paragraph("![%s](%s.svg)", markdown(f.Caption), f.Name)
		}
		for _, t := range s.Tables {
			markdownTable(&b, t)
		}
	}
	if len(p.Failures) > 0 {
		paragraph("## Void trials")
		list(&b, p.Failures)
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// markdown escapes text, because names of a custom experiment may hold every sign, and none of them
// is an order to Markdown. A mark that stands alone and a sign within a word are none, and stay.
func markdown(s string) string {
	letters := []rune(printable(s))
	at := func(i int) rune {
		if i < 0 || i >= len(letters) {
			return ' '
		}
		return letters[i]
	}
	word := func(r rune) bool { return unicode.IsLetter(r) || unicode.IsDigit(r) }
	var b strings.Builder
	for i, r := range letters {
		order := strings.ContainsRune("\\`<>[]#&~|", r)
		switch r {
		case '*':
			order = i == 0 || at(i-1) != ' ' || at(i+1) != ' '
		case '_':
			order = !word(at(i-1)) || !word(at(i+1))
		}
		if order {
			b.WriteByte('\\')
		}
		b.WriteRune(r)
	}
	return b.String()
}

// printable makes signs that are none, as the end of a line, spaces.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsControl(r) || r == '\u2028' || r == '\u2029' {
			return ' '
		}
		return r
	}, s)
}

// markdownCode is text as code, in more backticks than it has in a row.
func markdownCode(s string) string {
	s = printable(s)
	fence := "`"
	for strings.Contains(s, fence) {
		fence += "`"
	}
	if len(fence) > 1 { // it may begin or end with one
		return fence + " " + s + " " + fence
	}
	return fence + s + fence
}

func list(b *strings.Builder, lines []string) {
	for _, line := range lines {
		fmt.Fprintf(b, "- %s\n", markdown(line))
	}
	if len(lines) > 0 {
		b.WriteString("\n")
	}
}

func markdownTable(b *strings.Builder, t Table) {
	if len(t.Rows) == 0 {
		return
	}
	fmt.Fprintf(b, "%s\n\n", markdown(t.Caption))
	row := func(cells []string) {
		for _, c := range cells {
			b.WriteString("| " + markdown(c) + " ")
		}
		b.WriteString("|\n")
	}
	row(t.Head)
	b.WriteString(strings.Repeat("|---", len(t.Head)) + "|\n")
	for _, r := range t.Rows {
		row(r)
	}
	b.WriteString("\n")
}
