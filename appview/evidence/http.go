package evidence

import (
	"context"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"io"
	"mime"
	"net/http"
	"slices"
	"time"

	"github.com/bluesky-social/indigo/atproto/syntax"

	"city-sync.org/citysync/internal/xrpc"
	"city-sync.org/citysync/lexicons"
)

const nsid = "org.city-sync.work."

// Mimes are what can be shown as evidence.
var Mimes = []string{"image/jpeg", "image/png", "image/webp", "application/pdf", "application/json", "text/plain", "audio/mpeg", "video/mp4"}

// City is what the methods ask of the index.
type City interface {
	// Verifiers gives who may see the evidence of a task: its author and the author's delegates. known is false where there is no such task.
	Verifiers(ctx context.Context, task string) (dids []syntax.DID, known bool, err error)
	// Retention is the city's own word on how long private data is kept.
	Retention(ctx context.Context) (string, error)
}

// Auth says who calls.
type Auth interface {
	Caller(c *xrpc.Call) (syntax.DID, error)
}

type methods struct {
	store *Store
	auth  Auth
	city  City
}

// Register adds the methods to mux.
func Register(mux *xrpc.Mux, store *Store, auth Auth, city City) {
	m := &methods{store: store, auth: auth, city: city}
	mux.Procedure(nsid+"putEvidence", m.put, xrpc.MaxBody(MaxBytes))
	mux.Query(nsid+"getEvidence", m.get)
	mux.Query(nsid+"listEvidence", m.list)
	mux.Procedure(nsid+"deleteEvidence", m.remove)
}

// claim reads which claim of which task is meant.
func claim(c *xrpc.Call) (task string, token []byte, err error) {
	if task, err = c.Required("task"); err != nil {
		return "", nil, err
	}
	u, err := syntax.ParseATURI(task)
	if err != nil || u.Collection().String() != lexicons.WorkTask || len(task) > 512 {
		return "", nil, xrpc.InvalidRequest("task is no task's address")
	}
	word, err := c.Required("claimToken")
	if err != nil {
		return "", nil, err
	}
	if token, err = base64.RawURLEncoding.DecodeString(word); err != nil || len(token) != 32 {
		return "", nil, xrpc.InvalidRequest("claimToken must be 32 bytes in base64url without padding")
	}
	return task, token, nil
}

// put keeps evidence for the resident that calls. Whose claim it is only the ledger knows: the issuer compares the token with what the ledger
// lists, and the bytes with the commitment of the proof.
func (m *methods) put(c *xrpc.Call) (any, error) {
	owner, err := m.auth.Caller(c)
	if err != nil {
		return nil, err
	}
	task, token, err := claim(c)
	if err != nil {
		return nil, err
	}
	kind, _, err := mime.ParseMediaType(c.R.Header.Get("Content-Type"))
	if err != nil || !slices.Contains(Mimes, kind) {
		return nil, xrpc.Errorf(http.StatusUnsupportedMediaType, xrpc.NameUnsupportedMedia, "evidence of this kind is not kept")
	}
	if _, known, err := m.city.Verifiers(c.Context(), task); err != nil || !known {
		return nil, or(err, xrpc.Errorf(http.StatusNotFound, "TaskUnknown", "no such task was seen"))
	}
	plain, err := io.ReadAll(c.R.Body) // bounded: the mux wrapped it in http.MaxBytesReader
	if err != nil {
		var large *http.MaxBytesError
		if errors.As(err, &large) {
			return nil, err
		}
		return nil, xrpc.InvalidRequest("the body could not be read")
	}
	if len(plain) == 0 {
		return nil, xrpc.InvalidRequest("the body is empty")
	}
	words, err := m.city.Retention(c.Context())
	if err != nil {
		return nil, err
	}
	o, err := m.store.Put(c.Context(), Object{Owner: owner, Task: task, Token: token, Mime: kind}, plain, Keep(words))
	if errors.Is(err, ErrFull) {
		return nil, xrpc.Errorf(http.StatusConflict, "EvidenceFull", "%v", err).
			With(map[string]any{"objects": int64(maxObjects), "bytes": int64(maxTotal), "ofOneClaim": int64(maxPerTask)})
	}
	if err != nil {
		return nil, err
	}
	return view(o), nil
}

func or(err error, other *xrpc.Error) error {
	if err != nil {
		return err
	}
	return other
}

func view(o *Object) map[string]any {
	return map[string]any{
		"id": hex.EncodeToString(o.ID), "mime": o.Mime, "size": o.Size, "createdAt": o.Created.UTC().Format(time.RFC3339),
		"until": o.Until.UTC().Format(time.RFC3339),
	}
}

// id reads which object is meant.
func id(word string) ([]byte, error) {
	raw, err := hex.DecodeString(word)
	if err != nil || len(raw) != 16 {
		return nil, unknown()
	}
	return raw, nil
}

func unknown() *xrpc.Error {
	return xrpc.Errorf(http.StatusNotFound, "EvidenceUnknown", "there is no such evidence")
}

// get gives the bytes. Who may not see them is told that there are none.
func (m *methods) get(c *xrpc.Call) (any, error) {
	caller, err := m.auth.Caller(c)
	if err != nil {
		return nil, err
	}
	raw, err := id(c.Param("id"))
	if err != nil {
		return nil, err
	}
	o, err := m.store.find(c.Context(), raw)
	if err == nil && o.Owner != caller {
		err = m.mayVerify(c.Context(), o.Task, caller)
	}
	var plain []byte
	if err == nil {
		plain, err = m.store.open(c.Context(), o)
	}
	if errors.Is(err, errUnknown) {
		return nil, unknown()
	}
	if err != nil {
		return nil, err
	}
	h := c.W.Header()
	h.Set("Content-Type", o.Mime)
	h.Set("Cache-Control", "no-store")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Content-Security-Policy", "default-src 'none'; sandbox")
	h.Set("Content-Disposition", "attachment")
	_, _ = c.W.Write(plain) // the client is gone: nobody to tell
	return xrpc.Written, nil
}

func (m *methods) mayVerify(ctx context.Context, task string, caller syntax.DID) error {
	who, known, err := m.city.Verifiers(ctx, task)
	if err != nil {
		return err
	}
	if !known || !slices.Contains(who, caller) {
		return errUnknown
	}
	return nil
}

// list says what there is for a claim: all of it to who verifies the task, to a resident the resident's own.
func (m *methods) list(c *xrpc.Call) (any, error) {
	caller, err := m.auth.Caller(c)
	if err != nil {
		return nil, err
	}
	task, token, err := claim(c)
	if err != nil {
		return nil, err
	}
	owner := caller
	switch err := m.mayVerify(c.Context(), task, caller); {
	case err == nil:
		owner = ""
	case !errors.Is(err, errUnknown):
		return nil, err
	}
	found, err := m.store.list(c.Context(), task, token, owner)
	if err != nil {
		return nil, err
	}
	views := make([]map[string]any, len(found))
	for i := range found {
		views[i] = view(&found[i])
	}
	return map[string]any{"evidence": views}, nil
}

func (m *methods) remove(c *xrpc.Call) (any, error) {
	caller, err := m.auth.Caller(c)
	if err != nil {
		return nil, err
	}
	var in struct {
		ID string `json:"id"`
	}
	if err := c.Body(&in); err != nil {
		return nil, err
	}
	raw, err := id(in.ID)
	if err != nil {
		return nil, err
	}
	gone, err := m.store.remove(c.Context(), raw, caller)
	if err != nil {
		return nil, err
	}
	if !gone {
		return nil, unknown()
	}
	return map[string]any{"status": "deleted"}, nil
}
