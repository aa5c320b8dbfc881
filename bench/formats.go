package bench

import (
	"bytes"
	"fmt"
	"io"
	"strings"
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
	paragraph("# %s", p.Title)
	paragraph("%s. After %s.", p.Summary, p.Source)
	for _, banner := range p.Banners {
		paragraph("> **%s** %s.", banner.Kind, banner.Text)
	}
	list(&b, p.Headlines)
	markdownTable(&b, p.Lead)
	paragraph("Reproduce with `%s`.", p.Command)
	for _, f := range p.Facts {
		fmt.Fprintf(&b, "- %s: %s\n", f[0], f[1])
	}
	b.WriteString("\n")
	for _, s := range p.Sections {
		paragraph("## %s", s.Title)
		for _, t := range s.Text {
			paragraph("%s", t)
		}
		for _, f := range s.Figures {
			paragraph("![%s](%s.svg)", f.Caption, f.Name)
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

func list(b *strings.Builder, lines []string) {
	for _, line := range lines {
		fmt.Fprintf(b, "- %s\n", line)
	}
	if len(lines) > 0 {
		b.WriteString("\n")
	}
}

func markdownTable(b *strings.Builder, t Table) {
	if len(t.Rows) == 0 {
		return
	}
	fmt.Fprintf(b, "%s\n\n", t.Caption)
	row := func(cells []string) {
		for _, c := range cells {
			b.WriteString("| " + strings.NewReplacer("|", `\|`, "\n", " ").Replace(c) + " ")
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

// latexHead needs no more than a common TeX distribution has.
const latexHead = `\documentclass[a4paper]{article}
\usepackage[T1]{fontenc}
\usepackage[utf8]{inputenc}
\usepackage[margin=2cm]{geometry}
\usepackage{booktabs,graphicx}
`

// writeLaTeX writes a page as a document, whose tables can be copied into another.
func writeLaTeX(w io.Writer, p page) error {
	var b strings.Builder
	b.WriteString(latexHead)
	fmt.Fprintf(&b, "\\title{%s}\n\\date{}\n\\begin{document}\n\\maketitle\n", latex(p.Title))
	paragraph := func(text string) { fmt.Fprintf(&b, "%s\n\n", latex(text)) }
	paragraph(p.Summary + ". After " + p.Source + ".")
	for _, banner := range p.Banners {
		fmt.Fprintf(&b, "\\textbf{%s} %s.\n\n", latex(banner.Kind), latex(banner.Text))
	}
	latexList(&b, p.Headlines)
	latexTable(&b, p.Lead)
	fmt.Fprintf(&b, "Reproduce with \\texttt{%s}.\n\n", latex(p.Command))
	var facts []string
	for _, f := range p.Facts {
		facts = append(facts, f[0]+": "+f[1])
	}
	latexList(&b, facts)
	for _, s := range p.Sections {
		fmt.Fprintf(&b, "\\section*{%s}\n", latex(s.Title))
		for _, t := range s.Text {
			paragraph(t)
		}
		for _, f := range s.Figures {
			fmt.Fprintf(&b, "\\begin{figure}[htbp]\n\\centering\n"+
				"\\includegraphics[width=\\linewidth]{%s.png}\n\\caption{%s}\n\\end{figure}\n\n",
				f.Name, latex(f.Caption))
		}
		for _, t := range s.Tables {
			latexTable(&b, t)
		}
	}
	if len(p.Failures) > 0 {
		b.WriteString("\\section*{Void trials}\n")
		latexList(&b, p.Failures)
	}
	b.WriteString("\\end{document}\n")
	_, err := io.WriteString(w, b.String())
	return err
}

func latexList(b *strings.Builder, lines []string) {
	if len(lines) == 0 {
		return
	}
	b.WriteString("\\begin{itemize}\n")
	for _, line := range lines {
		fmt.Fprintf(b, "\\item %s\n", latex(line))
	}
	b.WriteString("\\end{itemize}\n\n")
}

func latexTable(b *strings.Builder, t Table) {
	if len(t.Rows) == 0 {
		return
	}
	fmt.Fprintf(b, "\\begin{table}[htbp]\n\\centering\n\\caption{%s}\n"+
		"\\resizebox{\\linewidth}{!}{%%\n\\begin{tabular}{%s}\n\\toprule\n",
		latex(t.Caption), strings.Repeat("l", len(t.Head)))
	row := func(cells []string) {
		var escaped []string
		for _, c := range cells {
			escaped = append(escaped, latex(c))
		}
		fmt.Fprintf(b, "%s \\\\\n", strings.Join(escaped, " & "))
	}
	row(t.Head)
	b.WriteString("\\midrule\n")
	for _, r := range t.Rows {
		// A line that begins with a bracket would be an argument of the line break before it.
		row(append([]string{"\u200b" + r[0]}, r[1:]...))
	}
	b.WriteString("\\bottomrule\n\\end{tabular}}\n\\end{table}\n\n")
}

// latex escapes text, and writes the signs of our tables as TeX knows them.
func latex(s string) string { return latexEscapes.Replace(s) }

var latexEscapes = strings.NewReplacer(
	`\`, `\textbackslash{}`, "{", `\{`, "}", `\}`, "$", `\$`, "&", `\&`, "%", `\%`, "#", `\#`,
	"_", `\_`, "~", `\textasciitilde{}`, "^", `\textasciicircum{}`, "<", `\textless{}`,
	">", `\textgreater{}`, "|", `\textbar{}`, "\n", " ",
	"×", `$\times$`, "→", `$\to$`, "∞", `$\infty$`, "–", "--", "µ", `\textmu{}`,
	"≥", `$\ge$`, "≤", `$\le$`, "“", "``", "”", "''", "’", "'", "…", `\ldots{}`,
	"\u202f", `\,`, "\u200b", `{}`,
)
