package lexicons

import (
	"errors"
	"fmt"
	"strings"

	"github.com/bluesky-social/indigo/atproto/atdata"
	"github.com/bluesky-social/indigo/atproto/lexicon"
	"github.com/bluesky-social/indigo/atproto/syntax"
	"github.com/ipfs/go-cid"
)

// sha256Code and sha256Bytes are SHA-256 as multihash knows it.
const (
	sha256Code  = 0x12
	sha256Bytes = 32
)

const strongRef = "com.atproto.repo.strongRef"

// judge walks a schema and a value side by side. It uses the library's checks
// for single values and adds what that leaves to us: where in the record the
// fault lies, citations that can be followed, and unions.
type judge struct{ cat lexicon.Catalog }

// value judges v by def; base is the NSID of the file def stands in.
func (j judge) value(base string, def any, v any, at string) error {
	switch d := def.(type) {
	case lexicon.SchemaRef:
		full := absolute(base, d.Ref)
		next, err := j.cat.Resolve(full)
		if err != nil {
			return fault(at, err)
		}
		if err := j.value(fileOf(full), next.Def, v, at); err != nil || full != strongRef {
			return err
		}
		return fault(at, citation(v))
	case lexicon.SchemaObject:
		m, ok := v.(map[string]any)
		if !ok {
			return fault(at, errors.New("expected an object"))
		}
		return j.object(base, d, m, at)
	case lexicon.SchemaArray:
		return j.array(base, d, v, at)
	case lexicon.SchemaUnion:
		return j.union(base, d, v, at)
	default:
		return fault(at, single(def, v))
	}
}

func (j judge) object(base string, s lexicon.SchemaObject, m map[string]any, at string) error {
	for _, name := range s.Required {
		if _, ok := m[name]; !ok {
			return fault(join(at, name), errors.New("required field missing"))
		}
	}
	for _, name := range names(s.Properties) { // in order: the same record is refused for the same reason
		def := s.Properties[name]
		v, ok := m[name]
		if !ok || (v == nil && s.IsNullable(name)) {
			continue
		}
		if err := j.value(base, def.Inner, v, join(at, name)); err != nil {
			return err
		}
	}
	return nil
}

func (j judge) array(base string, s lexicon.SchemaArray, v any, at string) error {
	list, ok := v.([]any)
	if !ok {
		return fault(at, errors.New("expected an array"))
	}
	if (s.MinLength != nil && len(list) < *s.MinLength) || (s.MaxLength != nil && len(list) > *s.MaxLength) {
		return fault(at, fmt.Errorf("array length out of bounds: %d", len(list)))
	}
	for i, item := range list {
		if err := j.value(base, s.Items.Inner, item, fmt.Sprintf("%s[%d]", at, i)); err != nil {
			return err
		}
	}
	return nil
}

// union judges a listed variant whole; of an unlisted one it asks only for a
// $type that could be one.
func (j judge) union(base string, s lexicon.SchemaUnion, v any, at string) error {
	m, ok := v.(map[string]any)
	if !ok {
		return fault(at, errors.New("expected an object with a $type"))
	}
	typ, _ := m["$type"].(string)
	for _, r := range s.Refs {
		full := absolute(base, r)
		if full == strings.TrimSuffix(typ, "#main") {
			return j.value(base, lexicon.SchemaRef{Type: "ref", Ref: r}, v, at)
		}
	}
	if s.Closed != nil && *s.Closed {
		return fault(at, fmt.Errorf("$type %q is not one of the closed union", typ))
	}
	file, _, _ := strings.Cut(typ, "#")
	if _, err := syntax.ParseNSID(file); err != nil {
		return fault(at, fmt.Errorf("$type %q names no schema", typ))
	}
	return nil
}

// single judges a value that holds no other.
func single(def any, v any) error {
	switch d := def.(type) {
	case lexicon.SchemaString:
		if err := d.Validate(v, 0); err != nil {
			return err
		}
		return format(d.Format, v.(string))
	case lexicon.SchemaInteger:
		return d.Validate(v)
	case lexicon.SchemaBoolean:
		return d.Validate(v)
	case lexicon.SchemaBytes:
		return d.Validate(v)
	case lexicon.SchemaCIDLink:
		return d.Validate(v)
	case lexicon.SchemaBlob:
		if err := d.Validate(v, 0); err != nil {
			return err
		}
		return blob(v.(atdata.Blob))
	case lexicon.SchemaUnknown:
		return d.Validate(v)
	default:
		return fmt.Errorf("a schema of kind %T judges no value", def)
	}
}

// format adds to the library's syntax checks: records never cite a handle,
// which can change hands, and a CID must parse.
func format(name *string, v string) error {
	if name == nil {
		return nil
	}
	switch *name {
	case "at-uri":
		if !strings.HasPrefix(v, "at://did:") {
			return errors.New("at-uri must have a DID as authority")
		}
	case "cid":
		_, err := parseCID(v)
		return err
	}
	return nil
}

// citation judges what the schema of a strongRef leaves open: the uri is that of one record, the CID that of a record.
func citation(v any) error {
	m, ok := v.(map[string]any)
	if !ok {
		return errors.New("expected a strongRef")
	}
	uri, _ := m["uri"].(string)
	if strings.Count(uri, "/") != 4 {
		return errors.New("strongRef uri must be at://DID/collection/rkey")
	}
	text, _ := m["cid"].(string)
	c, err := parseCID(text)
	if err != nil {
		return fmt.Errorf("strongRef cid: %w", err)
	}
	if p := c.Prefix(); p.Codec != cid.DagCBOR || p.MhType != sha256Code || p.MhLength != sha256Bytes {
		return errors.New("strongRef cid must be that of a record (dag-cbor, sha-256)")
	}
	return nil
}

// blob judges the reference to a blob: raw bytes under SHA-256, of a size.
func blob(b atdata.Blob) error {
	p := b.Ref.CID().Prefix()
	if p.Version != 1 || p.Codec != cid.Raw || p.MhType != sha256Code || p.MhLength != sha256Bytes {
		return errors.New("blob ref must be a raw sha-256 CID")
	}
	if b.Size < 0 {
		return errors.New("blob without size")
	}
	return nil
}

func parseCID(s string) (cid.Cid, error) {
	c, err := cid.Decode(s)
	if err != nil {
		return cid.Undef, err
	}
	if c.Version() != 1 || c.String() != s {
		return cid.Undef, errors.New("not a CIDv1 in base32")
	}
	return c, nil
}

func absolute(base, ref string) string {
	if strings.HasPrefix(ref, "#") {
		return base + ref
	}
	return ref
}

func fileOf(ref string) string {
	file, _, _ := strings.Cut(ref, "#")
	return file
}

func join(at, name string) string {
	if at == "" {
		return name
	}
	return at + "." + name
}

// fault says where the error lies.
func fault(at string, err error) error {
	if err == nil || at == "" {
		return err
	}
	return fmt.Errorf("%s: %w", at, err)
}

// maxSchemaDepth bounds the nesting of our own schemas; a schema that refers
// to itself would make judging unbounded.
const maxSchemaDepth = 12

// resolvable checks that every reference below def leads somewhere and ends.
func resolvable(cat lexicon.Catalog, base string, def any, depth int) error {
	if depth > maxSchemaDepth {
		return errors.New("schema nested too deep or in a circle")
	}
	follow := func(ref string) error {
		full := absolute(base, ref)
		next, err := cat.Resolve(full)
		if err != nil {
			return err
		}
		return resolvable(cat, fileOf(full), next.Def, depth+1)
	}
	switch d := def.(type) {
	case lexicon.SchemaRef:
		return follow(d.Ref)
	case lexicon.SchemaUnion:
		for _, r := range d.Refs {
			if err := follow(r); err != nil {
				return err
			}
		}
	case lexicon.SchemaArray:
		return resolvable(cat, base, d.Items.Inner, depth+1)
	case lexicon.SchemaObject:
		for name, p := range d.Properties {
			if err := resolvable(cat, base, p.Inner, depth+1); err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
		}
	}
	return nil
}
