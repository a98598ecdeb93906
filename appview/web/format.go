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
func taskPath(uri string) string {
	parts := strings.Split(strings.TrimPrefix(uri, "at://"), "/")
	if len(parts) != 3 {
		return "/"
	}
	return "/task/" + url.PathEscape(parts[0]) + "/" + url.PathEscape(parts[2])
}

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
