package lexicons

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/bluesky-social/indigo/atproto/atdata"
	"github.com/ipfs/go-cid"
)

// DecodeJSON reads one object in the JSON form of the atproto data model.
// Values are as DecodeCBOR returns them. A name that stands twice, a number
// that is no safe integer and text after the object are refused.
func DecodeJSON(b []byte) (map[string]any, error) {
	if len(b) > MaxJSONBytes {
		return nil, fmt.Errorf("%d bytes of JSON, at most %d", len(b), MaxJSONBytes)
	}
	if !utf8.Valid(b) {
		return nil, errors.New("JSON is not UTF-8")
	}
	dec := json.NewDecoder(bytes.NewReader(b))
	dec.UseNumber()
	v, err := jsonValue(dec, 0)
	if err != nil {
		return nil, err
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("text after the object")
	}
	m, ok := v.(map[string]any)
	if !ok {
		return nil, errors.New("not an object")
	}
	return m, nil
}

func jsonValue(dec *json.Decoder, depth int) (any, error) {
	if depth > MaxDepth {
		return nil, fmt.Errorf("nested deeper than %d", MaxDepth)
	}
	tok, err := dec.Token()
	if err != nil {
		return nil, fmt.Errorf("JSON: %w", err)
	}
	switch t := tok.(type) {
	case json.Delim:
		if t == '[' {
			return jsonArray(dec, depth)
		}
		return jsonObject(dec, depth)
	case json.Number:
		return jsonInteger(string(t))
	default: // nil, bool, string
		return t, nil
	}
}

func jsonArray(dec *json.Decoder, depth int) (any, error) {
	list := []any{}
	for dec.More() {
		if len(list) == maxContainer {
			return nil, fmt.Errorf("array of more than %d elements", maxContainer)
		}
		v, err := jsonValue(dec, depth+1)
		if err != nil {
			return nil, err
		}
		list = append(list, v)
	}
	_, err := dec.Token()
	return list, err
}

func jsonObject(dec *json.Decoder, depth int) (any, error) {
	m := map[string]any{}
	for dec.More() {
		tok, err := dec.Token()
		if err != nil {
			return nil, fmt.Errorf("JSON: %w", err)
		}
		name, ok := tok.(string)
		if !ok || len(name) > maxKeyBytes || len(m) == maxContainer {
			return nil, errors.New("field name is not a short text, or too many fields")
		}
		if _, twice := m[name]; twice {
			return nil, fmt.Errorf("field %q stands twice", name)
		}
		if m[name], err = jsonValue(dec, depth+1); err != nil {
			return nil, err
		}
	}
	if _, err := dec.Token(); err != nil {
		return nil, fmt.Errorf("JSON: %w", err)
	}
	if v, ok := m["$link"]; ok {
		return jsonLink(m, v)
	}
	if v, ok := m["$bytes"]; ok {
		return jsonBytes(m, v)
	}
	return typed(m)
}

// jsonInteger takes whole numbers in any notation, since some writers know
// one kind of number only.
func jsonInteger(s string) (any, error) {
	if n, err := strconv.ParseInt(s, 10, 64); err == nil {
		if n > maxSafeInteger || n < -maxSafeInteger {
			return nil, fmt.Errorf("integer %s is not safe", s)
		}
		return n, nil
	}
	f, err := strconv.ParseFloat(s, 64)
	if err != nil || f != math.Trunc(f) || math.Abs(f) > maxSafeInteger {
		return nil, fmt.Errorf("number %.32s is no safe integer", s)
	}
	return int64(f), nil
}

func jsonLink(m map[string]any, v any) (any, error) {
	s, ok := v.(string)
	if !ok || len(m) != 1 || len(s) > 2*maxCIDBytes {
		return nil, errors.New("$link must stand alone and be a text")
	}
	c, err := cid.Decode(s)
	if err != nil {
		return nil, fmt.Errorf("$link: %w", err)
	}
	if c.Version() != 1 {
		return nil, errors.New("$link is not a CIDv1")
	}
	return atdata.CIDLink(c), nil
}

func jsonBytes(m map[string]any, v any) (any, error) {
	s, ok := v.(string)
	if !ok || len(m) != 1 {
		return nil, errors.New("$bytes must stand alone and be a text")
	}
	b, err := base64.RawStdEncoding.DecodeString(strings.TrimRight(s, "="))
	if err != nil {
		return nil, fmt.Errorf("$bytes: %w", err)
	}
	return atdata.Bytes(b), nil
}
