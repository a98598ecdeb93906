package pds

import (
	"encoding/json"
	"errors"
	"net/http"
	"slices"

	"github.com/bluesky-social/indigo/atproto/atdata"
	"github.com/bluesky-social/indigo/atproto/syntax"
	"github.com/ipfs/go-cid"

	"city-sync.org/citysync/internal/repo"
	"city-sync.org/citysync/internal/xrpc"
	"city-sync.org/citysync/lexicons"
)

// maxRecord is the protocol's limit on one record's canonical bytes.
const maxRecord = 1_000_000

// maxRecordBlobs bounds the blob references of one record.
const maxRecordBlobs = 1000

// record is a value on its way into a repository: canonical bytes, checked.
type record struct {
	CBOR   []byte
	CID    cid.Cid
	Blobs  []atdata.Blob
	Status string // valid, unknown, or empty when the schema was not asked
}

func checkPath(collection, rkey string) error {
	if !lexicons.Known(collection) {
		if _, err := syntax.ParseNSID(collection); err != nil {
			return invalid("collection %q is not an NSID", collection)
		}
	}
	if _, err := syntax.ParseRecordKey(rkey); err != nil {
		return invalid("%q is not a record key", rkey)
	}
	return nil
}

// newRecord turns a client's JSON into a record. validate is the request's word: unset
// checks the schemas compiled in here and lets others pass as unknown; true refuses the
// others; false asks no schema. No schema is ever fetched: a write must not depend on
// somebody else's server.
func newRecord(collection, rkey string, value json.RawMessage, validate *bool) (*record, error) {
	if err := checkPath(collection, rkey); err != nil {
		return nil, err
	}
	fields, err := lexicons.DecodeJSON(value)
	if err != nil {
		return nil, refused("InvalidRecord", "record of %s: %v", collection, err)
	}
	if err := setType(fields, collection); err != nil {
		return nil, err
	}
	data, err := lexicons.EncodeCBOR(fields)
	if err != nil {
		return nil, refused("InvalidRecord", "record of %s: %v", collection, err)
	}
	if len(data) > maxRecord {
		return nil, xrpc.Errorf(http.StatusRequestEntityTooLarge, "RecordTooLarge", "a record has at most %d bytes", maxRecord)
	}
	rec := &record{CBOR: data, CID: repo.CIDForCBOR(data)}
	if rec.Status, err = checkSchema(collection, rkey, data, validate); err != nil {
		return nil, err
	}
	if rec.Blobs, err = blobsOf(fields); err != nil {
		return nil, err
	}
	return rec, nil
}

// setType adds $type where it is absent and refuses another collection's.
func setType(fields map[string]any, collection string) error {
	have, ok := fields["$type"]
	if ok && have != collection {
		return refused("InvalidRecord", "$type %q does not name the collection %s", have, collection)
	}
	fields["$type"] = collection
	return nil
}

func checkSchema(collection, rkey string, data []byte, validate *bool) (status string, err error) {
	switch {
	case validate != nil && !*validate:
		return "", nil
	case !lexicons.Known(collection):
		if validate != nil {
			return "", invalid("the schema of %s is not known here", collection)
		}
		return "unknown", nil
	}
	if err := lexicons.Validate(collection, rkey, data); err != nil {
		var bad *lexicons.InvalidError
		if errors.As(err, &bad) {
			return "", refused("InvalidRecord", "%v", bad)
		}
		return "", err
	}
	return "valid", nil
}

// blobsOf lists the blobs that a record refers to. The old form, which has no size, is
// refused: nothing could check it.
func blobsOf(fields map[string]any) ([]atdata.Blob, error) {
	if legacyBlob(fields) {
		return nil, refused("InvalidRecord", "the record holds a blob in the legacy form")
	}
	blobs := atdata.ExtractBlobs(fields)
	if len(blobs) > maxRecordBlobs {
		return nil, refused("InvalidRecord", "a record refers to at most %d blobs", maxRecordBlobs)
	}
	return blobs, nil
}

// legacyBlob looks for an object of exactly cid and mimeType. The depth of v is bounded
// by its decoder.
func legacyBlob(v any) bool {
	switch v := v.(type) {
	case []any:
		return slices.ContainsFunc(v, legacyBlob)
	case map[string]any:
		_, isCID := v["cid"].(string)
		_, isMime := v["mimeType"].(string)
		if len(v) == 2 && isCID && isMime {
			return true
		}
		for _, below := range v {
			if legacyBlob(below) {
				return true
			}
		}
	}
	return false
}
