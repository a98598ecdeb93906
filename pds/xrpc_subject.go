package pds

import (
	"context"
	"errors"
	"fmt"

	"github.com/bluesky-social/indigo/atproto/syntax"
	"github.com/ipfs/go-cid"

	"city-sync.org/citysync/internal/xrpc"
)

// What com.atproto.admin calls a subject: an account, a record, or a blob of an account.
const (
	subjectRepo   = "com.atproto.admin.defs#repoRef"
	subjectRecord = "com.atproto.repo.strongRef"
	subjectBlob   = "com.atproto.admin.defs#repoBlobRef"
)

type subject struct {
	Type      string     `json:"$type"`
	DID       syntax.DID `json:"did,omitempty"`
	URI       string     `json:"uri,omitempty"`
	CID       string     `json:"cid,omitempty"`
	RecordURI string     `json:"recordUri,omitempty"`

	collection, rkey string
	blob             cid.Cid
}

type statusAttr struct {
	Applied bool   `json:"applied"`
	Ref     string `json:"ref,omitempty"`
}

type subjectView struct {
	Subject     subject     `json:"subject"`
	Takedown    *statusAttr `json:"takedown,omitempty"`
	Deactivated *statusAttr `json:"deactivated,omitempty"`
}

// check completes a subject that a client named.
func (j *subject) check() (err error) {
	switch j.Type {
	case subjectRepo:
	case subjectRecord:
		uri, err := syntax.ParseATURI(j.URI)
		if err != nil || uri.RecordKey() == "" || uri.Authority().IsHandle() {
			return invalid("uri %.200q names no record by DID", j.URI)
		}
		j.DID = syntax.DID(uri.Authority().String())
		j.collection, j.rkey = uri.Collection().String(), uri.RecordKey().String()
		if err := checkPath(j.collection, j.rkey); err != nil {
			return err
		}
	case subjectBlob:
		if j.blob, err = parseCID("cid", j.CID); err != nil {
			return err
		}
	default:
		return invalid("subject of type %.80q is not known here", j.Type)
	}
	if _, err := syntax.ParseDID(j.DID.String()); err != nil {
		return invalid("did %.80q is not a DID", j.DID)
	}
	return nil
}

// detail is the subject as the operators' log names it beside the account.
func (j *subject) detail() string {
	switch j.Type {
	case subjectRecord:
		return j.collection + "/" + j.rkey
	case subjectBlob:
		return "blob " + j.CID
	default:
		return ""
	}
}

func subjectOf(c *xrpc.Call) (*subject, error) {
	j := &subject{Type: subjectRepo, DID: syntax.DID(c.Param("did"))}
	switch {
	case c.Has("uri"):
		j.Type, j.URI, j.DID = subjectRecord, c.Param("uri"), ""
	case c.Has("blob"):
		j.Type, j.CID = subjectBlob, c.Param("blob")
	}
	return j, j.check()
}

func (s *Server) adminSubject(c *xrpc.Call) (out any, err error) {
	j, err := subjectOf(c)
	if err != nil {
		return nil, err
	}
	err = s.asOperator(c, RoleReader, j.DID.String(), j.detail(), func(ctx context.Context, acc *account) error {
		out, err = s.viewSubject(ctx, acc, j)
		return err
	})
	return out, err
}

func (s *Server) viewSubject(ctx context.Context, acc *account, j *subject) (*subjectView, error) {
	v := &subjectView{Subject: *j, Takedown: &statusAttr{}}
	var err error
	switch j.Type {
	case subjectBlob:
		v.Takedown.Applied, err = s.blobQuarantined(ctx, j.DID, j.blob)
		return v, err
	case subjectRepo:
		v.Deactivated = &statusAttr{Applied: acc.Status == statusDeactivated}
	}
	v.Takedown.Ref, err = s.takenDown(ctx, j.DID, j.collection, j.rkey)
	v.Takedown.Applied = v.Takedown.Ref != ""
	return v, err
}

// adminUpdateSubject takes down and restores, and deactivates an account for its owner or opens it again.
func (s *Server) adminUpdateSubject(c *xrpc.Call) (any, error) {
	var in struct {
		Subject     *subject    `json:"subject"`
		Takedown    *statusAttr `json:"takedown"`
		Deactivated *statusAttr `json:"deactivated"`
	}
	if err := c.Body(&in); err != nil {
		return nil, err
	}
	if in.Subject == nil {
		return nil, invalid("subject is required")
	}
	if err := in.Subject.check(); err != nil {
		return nil, err
	}
	if in.Takedown != nil && (len(in.Takedown.Ref) > maxTakedownRef || !storable(in.Takedown.Ref)) {
		return nil, invalid("ref is text of at most %d bytes", maxTakedownRef)
	}
	if in.Deactivated != nil && in.Subject.Type != subjectRepo {
		return nil, invalid("only an account is deactivated")
	}
	var view *subjectView
	err := s.asOperator(c, RoleModerator, in.Subject.DID.String(), in.Subject.detail()+saying(in.Takedown, in.Deactivated), func(ctx context.Context, acc *account) error {
		err := errors.Join(s.applyTakedown(ctx, in.Subject, in.Takedown), s.applyDeactivation(ctx, acc, in.Deactivated))
		if err != nil {
			return err
		}
		if acc, err = s.findAccount(ctx, acc.DID.String()); err != nil {
			return err
		}
		view, err = s.viewSubject(ctx, acc, in.Subject)
		return err
	})
	if err != nil {
		return nil, err
	}
	return struct {
		Subject  subject     `json:"subject"`
		Takedown *statusAttr `json:"takedown,omitempty"`
	}{view.Subject, view.Takedown}, nil
}

// saying is what is asked, for the operators' log.
func saying(takedown, deactivated *statusAttr) (words string) {
	for _, a := range []struct {
		name string
		attr *statusAttr
	}{{"takedown", takedown}, {"deactivated", deactivated}} {
		if a.attr != nil {
			words += fmt.Sprintf(" %s=%t", a.name, a.attr.Applied)
		}
	}
	return words
}

func (s *Server) applyTakedown(ctx context.Context, j *subject, a *statusAttr) error {
	if a == nil {
		return nil
	}
	ref := a.Ref
	if ref == "" {
		ref = eventTime(s.clock.Now()) // as the reference names one that its moderator did not
	}
	switch {
	case j.Type == subjectBlob:
		return s.quarantineBlob(ctx, j.DID, j.blob, a.Applied)
	case j.Type == subjectRecord && a.Applied:
		return s.hideRecord(ctx, j.DID, j.collection, j.rkey, ref)
	case j.Type == subjectRecord:
		return s.showRecord(ctx, j.DID, j.collection, j.rkey)
	case a.Applied:
		return s.takeDown(ctx, j.DID, statusTakendown, ref)
	default:
		return s.liftTakedown(ctx, j.DID)
	}
}

func (s *Server) applyDeactivation(ctx context.Context, acc *account, a *statusAttr) error {
	switch {
	case a == nil:
		return nil
	case a.Applied:
		return s.deactivate(ctx, acc.DID, nil, s.clock.Now())
	default: // as its owner may: what has moved away is not told to be here
		return s.activateAgain(ctx, acc)
	}
}
