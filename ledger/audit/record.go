package audit

import (
	"encoding/base64"
	"encoding/json"
	"math"
	"reflect"
	"time"

	"city-sync.org/citysync/ledger/entry"
)

// Record is a record as decoded from JSON or DAG-CBOR. Numbers may be of any Go type; bytes may be bytes or {"$bytes": …}.
type Record map[string]any

func (r Record) text(key string) string {
	s, _ := r[key].(string)
	return s
}

func (r Record) object(key string) Record { return asRecord(r[key]) }

func asRecord(v any) Record {
	switch m := v.(type) {
	case Record:
		return m
	case map[string]any:
		return m
	}
	if rv := reflect.ValueOf(v); rv.Kind() == reflect.Map && rv.Type().ConvertibleTo(reflect.TypeFor[map[string]any]()) {
		return rv.Convert(reflect.TypeFor[map[string]any]()).Interface().(map[string]any)
	}
	return nil
}

func (r Record) list(key string) []any {
	l, _ := r[key].([]any)
	return l
}

func (r Record) texts(key string) []string {
	var out []string
	for _, v := range r.list(key) {
		s, _ := v.(string)
		out = append(out, s)
	}
	return out
}

// number gives a whole number, 0 where there is none.
func (r Record) number(key string) int64 {
	switch n := r[key].(type) {
	case json.Number:
		i, err := n.Int64()
		if err != nil {
			return math.MinInt64
		}
		return i
	case float64:
		if n != math.Trunc(n) || math.Abs(n) > 1<<53 {
			return math.MinInt64
		}
		return int64(n)
	}
	switch v := reflect.ValueOf(r[key]); {
	case v.CanInt():
		return v.Int()
	case v.CanUint():
		return int64(v.Uint())
	}
	return 0
}

func (r Record) bytes(key string) []byte {
	if v := reflect.ValueOf(r[key]); v.Kind() == reflect.Slice && v.Type().Elem().Kind() == reflect.Uint8 {
		return v.Bytes()
	}
	s := r.object(key).text("$bytes")
	if raw, err := base64.RawStdEncoding.DecodeString(s); err == nil {
		return raw
	}
	raw, _ := base64.StdEncoding.DecodeString(s)
	return raw
}

func (r Record) ref(key string) entry.Ref {
	o := r.object(key)
	return entry.Ref{URI: o.text("uri"), CID: o.text("cid")}
}

// time gives a datetime as leaves write it, or "" where there is none.
func (r Record) time(key string) string {
	t, err := time.Parse(time.RFC3339Nano, r.text(key))
	if err != nil {
		return ""
	}
	return entry.FormatTime(t)
}
