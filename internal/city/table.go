package city

import (
	"bytes"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/rivo/uniseg"
)

// Error is one fault of a city folder, with the place where it stands.
type Error struct {
	Name string // MissingFile, BadTable, MissingColumn, MissingValue, BadValue, BadDate, Duplicate, UnknownReference, Reserved, TooLarge
	File string
	Line int // 0 where the fault is the whole file's
	Text string
}

func (e *Error) Error() string {
	if e.Line == 0 {
		return fmt.Sprintf("%s: %s: %s", e.File, e.Name, e.Text)
	}
	return fmt.Sprintf("%s:%d: %s: %s", e.File, e.Line, e.Name, e.Text)
}

// Limits of a folder: far above any pilot, low enough that a wrong file is refused at once.
const (
	maxFileBytes = 4 << 20
	maxRows      = 5000
	maxFaults    = 20
	maxAmount    = 1_000_000_000
)

// faults gathers what is wrong, so that one run shows a person all of it.
type faults struct {
	list []error
}

func (f *faults) add(name, file string, line int, format string, a ...any) {
	if len(f.list) < maxFaults {
		f.list = append(f.list, &Error{Name: name, File: file, Line: line, Text: fmt.Sprintf(format, a...)})
	}
}

func (f *faults) err() error { return errors.Join(f.list...) }

// table is one CSV file: a header row, then rows of the same width.
type table struct {
	file   string
	column map[string]int
	rows   []*row
}

// row reads typed values; a fault is gathered and a zero value given, so that
// the reader needs no branch.
type row struct {
	t      *table
	line   int
	cells  []string
	faults *faults
}

func readTable(fsys fs.FS, file string, columns []string, f *faults) *table {
	t := &table{file: file, column: map[string]int{}}
	raw, err := readLimited(fsys, file)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		f.add("MissingFile", file, 0, "the city folder has no such file")
		return t
	case err != nil:
		f.add("BadTable", file, 0, "%v", err)
		return t
	case !utf8.Valid(raw):
		f.add("BadTable", file, 0, "not UTF-8")
		return t
	}
	r := csv.NewReader(bytes.NewReader(bytes.TrimPrefix(raw, []byte("\ufeff"))))
	header, err := r.Read()
	if err != nil {
		f.add("BadTable", file, 1, "no header row: %v", err)
		return t
	}
	for i, name := range header {
		name = strings.TrimSpace(name)
		if _, twice := t.column[name]; twice {
			f.add("Duplicate", file, 1, "column %q stands twice", name)
		}
		t.column[name] = i
	}
	for _, name := range columns {
		if _, ok := t.column[name]; !ok {
			f.add("MissingColumn", file, 1, "column %q is missing", name)
		}
	}
	t.readRows(r, f)
	return t
}

func (t *table) readRows(r *csv.Reader, f *faults) {
	for {
		cells, err := r.Read()
		if errors.Is(err, io.EOF) {
			return
		}
		var bad *csv.ParseError
		if errors.As(err, &bad) {
			f.add("BadTable", t.file, bad.Line, "%v", bad.Err)
			return
		}
		if err != nil {
			f.add("BadTable", t.file, 0, "%v", err)
			return
		}
		if len(t.rows) == maxRows {
			f.add("TooLarge", t.file, 0, "more than %d rows", maxRows)
			return
		}
		line, _ := r.FieldPos(0)
		t.rows = append(t.rows, &row{t: t, line: line, cells: cells, faults: f})
	}
}

func readLimited(fsys fs.FS, file string) ([]byte, error) {
	f, err := fsys.Open(file)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }() // it was only read
	raw, err := io.ReadAll(io.LimitReader(f, maxFileBytes+1))
	if err == nil && len(raw) > maxFileBytes {
		err = fmt.Errorf("more than %d bytes", maxFileBytes)
	}
	return raw, err
}

func (r *row) fail(name, format string, a ...any) { r.faults.add(name, r.t.file, r.line, format, a...) }

// optional is the cell's text without the blanks around it, "" where the column
// or the value is missing.
func (r *row) optional(col string, maxLength int) string {
	i, ok := r.t.column[col]
	if !ok || i >= len(r.cells) {
		return ""
	}
	s := strings.TrimSpace(r.cells[i])
	if n := length(s); n > maxLength {
		r.fail("TooLarge", "%s has %d characters, at most %d fit", col, n, maxLength)
		return ""
	}
	return s
}

// length counts as records do: characters as a person sees them, and at most ten
// bytes for each.
func length(s string) int { return max(uniseg.GraphemeClusterCount(s), (len(s)+9)/10) }

func (r *row) text(col string, maxLength int) string {
	s := r.optional(col, maxLength)
	if _, ok := r.t.column[col]; s == "" && ok {
		r.fail("MissingValue", "%s is empty", col)
	}
	return s
}

// or gives the optional text, or the default where the folder says nothing.
func (r *row) or(col, fallback string, maxLength int) string {
	if s := r.optional(col, maxLength); s != "" {
		return s
	}
	return fallback
}

func (r *row) integer(col string, low, high int64) int64 {
	s := r.text(col, 32)
	if s == "" {
		return low
	}
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil {
		r.fail("BadValue", "%s %q is not a whole number", col, s)
		return low
	}
	if n < low || n > high {
		r.fail("BadValue", "%s is %d, it must lie in %d..%d", col, n, low, high)
		return low
	}
	return n
}

func (r *row) choice(col string, allowed ...string) string {
	s := r.text(col, 64)
	if s == "" {
		return ""
	}
	for _, a := range allowed {
		if s == a {
			return s
		}
	}
	r.fail("BadValue", "%s %q is none of %s", col, s, strings.Join(allowed, ", "))
	return ""
}

// phrases splits a cell at ";", without the blanks around each phrase.
func (r *row) phrases(col string, maxCount, maxLength int) []string {
	var out []string
	for p := range strings.SplitSeq(r.optional(col, maxCount*(maxLength+2)), ";") {
		p = strings.TrimSpace(p)
		switch {
		case p == "":
		case length(p) > maxLength:
			r.fail("TooLarge", "%s: a phrase has %d characters, at most %d fit", col, length(p), maxLength)
		case len(out) == maxCount:
			r.fail("TooLarge", "%s: more than %d phrases", col, maxCount)
			return out
		default:
			out = append(out, p)
		}
	}
	return out
}

// minutes reads decimal hours exactly: 0.75 is 45. A value that is no whole number
// of minutes is refused, never rounded.
func (r *row) minutes(col string) int {
	s := r.text(col, 16)
	if s == "" {
		return 0
	}
	m, ok := hoursToMinutes(s)
	if !ok {
		r.fail("BadValue", "%s %q is not a decimal number of hours that makes whole minutes, 1 to 1440", col, s)
	}
	return m
}

func hoursToMinutes(s string) (int, bool) {
	whole, fraction, point := strings.Cut(s, ".")
	if point && fraction == "" || len(fraction) > 6 || len(whole) > 2 {
		return 0, false
	}
	for _, c := range whole + fraction {
		if c < '0' || c > '9' {
			return 0, false
		}
	}
	n, err := strconv.Atoi(whole + fraction)
	if err != nil {
		return 0, false
	}
	scale := 1
	for range fraction {
		scale *= 10
	}
	if n*60%scale != 0 {
		return 0, false
	}
	m := n * 60 / scale
	return m, m >= 1 && m <= 1440
}
