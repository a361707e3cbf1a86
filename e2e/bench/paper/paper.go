// Package paper writes what was measured for people: Markdown with tables, and
// charts as SVG files beside it. It knows nothing of what the numbers mean.
package paper

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// Document is a Markdown text that grows from top to bottom.
type Document struct{ text strings.Builder }

// String returns the text.
func (d *Document) String() string { return d.text.String() }

// Heading adds a heading; 1 is the title's level.
func (d *Document) Heading(level int, format string, args ...any) {
	d.block(strings.Repeat("#", level) + " " + fmt.Sprintf(format, args...))
}

// Say adds a paragraph.
func (d *Document) Say(format string, args ...any) { d.block(fmt.Sprintf(format, args...)) }

// Show adds an image by its file name; alt says what is to be seen.
func (d *Document) Show(file, alt string) { d.block(fmt.Sprintf("![%s](%s)", alt, file)) }

// Table adds a table.
func (d *Document) Table(t Table) { d.block(strings.TrimSuffix(t.String(), "\n")) }

func (d *Document) block(text string) {
	if d.text.Len() > 0 {
		d.text.WriteString("\n")
	}
	d.text.WriteString(text + "\n")
}

// Table is a table of figures, which are set to the right.
type Table struct {
	Columns []string
	Rows    [][]string
	// Words is how many of the first columns hold words instead; at least one does.
	Words int
}

// Row adds a row.
func (t *Table) Row(cells ...string) { t.Rows = append(t.Rows, cells) }

// String returns the table as Markdown that can be read as it is, too.
func (t Table) String() string {
	widths := make([]int, len(t.Columns))
	for _, row := range append([][]string{t.Columns}, t.Rows...) {
		for i := range widths {
			widths[i] = max(widths[i], utf8.RuneCountInString(cell(row, i)), 4)
		}
	}
	var b strings.Builder
	line := func(row []string) {
		for i, w := range widths {
			c := cell(row, i)
			pad := strings.Repeat(" ", w-utf8.RuneCountInString(c))
			if i < max(t.Words, 1) {
				c += pad
			} else {
				c = pad + c
			}
			b.WriteString("| " + c + " ")
		}
		b.WriteString("|\n")
	}
	line(t.Columns)
	for i, w := range widths {
		if i < max(t.Words, 1) {
			b.WriteString("|" + strings.Repeat("-", w+2))
		} else {
			b.WriteString("|" + strings.Repeat("-", w+1) + ":")
		}
	}
	b.WriteString("|\n")
	for _, row := range t.Rows {
		line(row)
	}
	return b.String()
}

// cell is a row's i-th cell; rows may be shorter than the head.
func cell(row []string, i int) string {
	if i < len(row) {
		return strings.ReplaceAll(row[i], "|", `\|`)
	}
	return ""
}

// Number writes a figure with three digits that count, and no exponent.
func Number(value float64) string {
	if value == 0 || math.IsNaN(value) || math.IsInf(value, 0) {
		return strconv.FormatFloat(value, 'f', -1, 64)
	}
	decimals := max(0, 2-int(math.Floor(math.Log10(math.Abs(value)))))
	return grouped(strconv.FormatFloat(value, 'f', min(decimals, 4), 64))
}

// grouped sets commas into the thousands.
func grouped(digits string) string {
	whole, fraction, _ := strings.Cut(digits, ".")
	sign := ""
	if strings.HasPrefix(whole, "-") {
		sign, whole = "-", whole[1:]
	}
	for i := len(whole) - 3; i > 0; i -= 3 {
		whole = whole[:i] + "," + whole[i:]
	}
	if fraction != "" {
		whole += "." + fraction
	}
	return sign + whole
}

// Duration writes a duration in the unit that suits it.
func Duration(d time.Duration) string {
	switch abs := d.Abs(); {
	case abs == 0:
		return "0"
	case abs < time.Microsecond:
		return Number(float64(d.Nanoseconds())) + " ns"
	case abs < time.Millisecond:
		return Number(float64(d)/float64(time.Microsecond)) + " µs"
	case abs < time.Second:
		return Number(Milliseconds(d)) + " ms"
	default:
		return Number(d.Seconds()) + " s"
	}
}

// Milliseconds is d as a figure.
func Milliseconds(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

// Bytes writes an amount of memory or traffic.
func Bytes(n float64) string {
	units := []string{"B", "KiB", "MiB", "GiB"}
	i := 0
	for ; math.Abs(n) >= 1024 && i < len(units)-1; i++ {
		n /= 1024
	}
	return Number(n) + " " + units[i]
}

// Count writes a whole number.
func Count(n int) string { return grouped(strconv.Itoa(n)) }
