package web

import (
	"html/template"
	"net/url"
	"strconv"
	"strings"
	"time"
)

var funcs = template.FuncMap{
	"number":     number,
	"stamp":      func(t time.Time) string { return t.UTC().Format(time.RFC3339) },
	"taskPath":   taskPath,
	"recordPath": recordPath,
	"lines":      func(s string) []string { return strings.Split(s, "\n") },
	"entryPath":  entryPath,
	"epochPath":  epochPath,

	"offeringPath": offeringPath,
	"disputePath":  disputePath,
	"disputeKind":  disputeKind,
}

// number groups thousands by a thin no-break space, as both languages read it alike.
func number(n any) string {
	var s string
	switch v := n.(type) {
	case int64:
		s = strconv.FormatInt(v, 10)
	case int:
		s = strconv.Itoa(v)
	}
	sign := ""
	if strings.HasPrefix(s, "-") {
		sign, s = "−", s[1:]
	}
	var b strings.Builder
	for i, d := range s {
		if i > 0 && (len(s)-i)%3 == 0 {
			b.WriteRune('\u202f')
		}
		b.WriteRune(d)
	}
	return sign + b.String()
}

// taskPath is the page of the task at an at-uri.
func taskPath(uri string) string { return pathOf("/task/", uri) }

// recordPath is the page of one version of the record at an at-uri.
func recordPath(uri, cid string) string {
	parts := strings.Split(strings.TrimPrefix(uri, "at://"), "/")
	if len(parts) != 3 {
		return "/"
	}
	path := "/record/" + url.PathEscape(parts[0]) + "/" + url.PathEscape(parts[1]) + "/" + url.PathEscape(parts[2])
	if cid != "" {
		path += "?cid=" + url.QueryEscape(cid)
	}
	return path
}

// pathOf is the page, under prefix, of the record at an at-uri.
func pathOf(prefix, uri string) string {
	parts := strings.Split(strings.TrimPrefix(uri, "at://"), "/")
	if len(parts) != 3 {
		return "/"
	}
	return prefix + url.PathEscape(parts[0]) + "/" + url.PathEscape(parts[2])
}

func offeringPath(uri string) string { return pathOf("/offering/", uri) }
func disputePath(uri string) string  { return pathOf("/dispute/", uri) }
func entryPath(seq int64) string     { return "/entry/" + strconv.FormatInt(seq, 10) }

func epochPath(book, epoch string) string {
	return "/epoch/" + url.PathEscape(book) + "/" + url.PathEscape(epoch)
}
