package pds

import (
	"context"
	"fmt"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/bluesky-social/indigo/atproto/syntax"
	"github.com/ipfs/go-cid"
	"github.com/jackc/pgx/v5"

	"city-sync.org/citysync/internal/xrpc"
)

const (
	reportLife    = 180 * 24 * time.Hour // kept no longer than it may be of use
	maxReports    = 1000                 // of one account that are kept at once
	maxReason     = 20_000               // bytes
	maxReportKind = 256
)

type reportSubject struct {
	Type string `json:"$type"`
	DID  string `json:"did,omitempty"`
	URI  string `json:"uri,omitempty"`
	CID  string `json:"cid,omitempty"`
}

// about is the DID of a subject that is well formed. What its type has no field for is dropped: nobody has looked at it.
func (r *reportSubject) about() (syntax.DID, error) {
	switch r.Type {
	case "com.atproto.admin.defs#repoRef":
		did, err := syntax.ParseDID(r.DID)
		if err != nil {
			return "", invalid("subject: %q is not a DID", r.DID)
		}
		r.URI, r.CID = "", ""
		return did, nil
	case "com.atproto.repo.strongRef":
		uri, err := syntax.ParseATURI(r.URI)
		if err != nil || !uri.Authority().IsDID() || uri.RecordKey() == "" {
			return "", invalid("subject: %q is not the at-uri of a record", r.URI)
		}
		if _, err := cid.Decode(r.CID); err != nil {
			return "", invalid("subject: %q is not a CID", r.CID)
		}
		did, err := uri.Authority().AsDID()
		if err != nil {
			return "", invalid("subject: %q names no account", r.URI)
		}
		r.DID = ""
		return did, nil
	default:
		return "", invalid("subject: $type %q is neither a repository nor a record", r.Type)
	}
}

// createReport keeps a report for this server's operators. A client that names a moderation service is carried there instead.
func (s *Server) createReport(c *xrpc.Call) (any, error) {
	if c.R.Header.Get(proxyHeader) != "" {
		return s.carry(c)
	}
	a, err := s.caller(c)
	if err != nil {
		return nil, err
	}
	if err := a.mayCall(c.NSID, s.cfg.ServiceDID.String()+"#atproto_pds"); err != nil {
		return nil, err
	}
	var in struct {
		ReasonType string        `json:"reasonType"`
		Reason     string        `json:"reason"`
		Subject    reportSubject `json:"subject"`
	}
	if err := c.Body(&in); err != nil {
		return nil, err
	}
	kind, _, _ := strings.Cut(in.ReasonType, "#")
	if _, err := syntax.ParseNSID(kind); err != nil || len(in.ReasonType) > maxReportKind || !storable(in.ReasonType) {
		return nil, invalid("reasonType %q is no reason", in.ReasonType)
	}
	if len(in.Reason) > maxReason || utf8.RuneCountInString(in.Reason) > maxReason/10 || !storable(in.Reason) {
		return nil, invalid("a reason has %d characters at most", maxReason/10)
	}
	subject, err := in.Subject.about()
	if err != nil {
		return nil, err
	}
	if err := s.limitAccount(c, limitCreateReport, a.Actor, 1); err != nil {
		return nil, err
	}
	now := s.clock.Now()
	id, err := s.keepReport(c.Context(), a.Actor, subject, in.Subject, in.ReasonType, in.Reason, now)
	if err != nil {
		return nil, err
	}
	return struct {
		ID         int64         `json:"id"`
		ReasonType string        `json:"reasonType"`
		Reason     string        `json:"reason,omitempty"`
		Subject    reportSubject `json:"subject"`
		ReportedBy syntax.DID    `json:"reportedBy"`
		CreatedAt  string        `json:"createdAt"`
	}{id, in.ReasonType, in.Reason, in.Subject, a.Actor, eventTime(now)}, nil
}

func (s *Server) keepReport(ctx context.Context, by, about syntax.DID, subject reportSubject, kind, reason string, now time.Time) (id int64, err error) {
	const insert = `
		insert into report (did, subject, uri, cid, kind, reason, created)
		select @by, @about, @uri, @cid, @kind, @reason, @now
		where (select count(*) from report where did = @by) < @max
		returning id`
	rows, err := s.pool.Query(ctx, insert, pgx.NamedArgs{
		"by": by, "about": about, "uri": orNull(subject.URI), "cid": orNull(subject.CID),
		"kind": kind, "reason": orNull(reason), "now": now, "max": maxReports,
	})
	if err != nil {
		return 0, fmt.Errorf("keep report: %w", err)
	}
	ids, err := pgx.CollectRows(rows, pgx.RowTo[int64])
	if err != nil {
		return 0, fmt.Errorf("keep report: %w", err)
	}
	if len(ids) == 0 {
		return 0, refused("TooManyReports", "%d reports of this account wait already", maxReports)
	}
	s.metrics.reports.Inc()
	s.log.Info("report received", "report", ids[0])
	return ids[0], nil
}

// dropReports forgets reports that are old.
func (s *Server) dropReports(ctx context.Context, now time.Time) error {
	if _, err := s.pool.Exec(ctx, `delete from report where created < $1`, now.Add(-reportLife)); err != nil {
		return fmt.Errorf("drop old reports: %w", err)
	}
	return nil
}
