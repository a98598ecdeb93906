package index

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/bluesky-social/indigo/atproto/syntax"
	"github.com/jackc/pgx/v5"
	cbg "github.com/whyrusleeping/cbor-gen"

	"city-sync.org/citysync/lexicons"
)

// Handler makes one record type's row in its typed table.
type Handler struct {
	NSID  string
	Table string // has did, rkey and cid, and (did, rkey) as its key
	Row   func(cbor []byte) (row, error)
}

// row holds a typed table's columns beside did, rkey and cid.
type row map[string]any

// Handlers is the one list of the record types that the AppView indexes: the consumer's filter, the projections, their deletion, Rebuild and
// StateHash all follow from it.
var Handlers = []Handler{
	{lexicons.ActorCity, "city", cityRow},
	{lexicons.ActorDeclaration, "declaration", declarationRow},
	{lexicons.ActorOrganization, "organization", organizationRow},
	{lexicons.RegistryAccreditation, "accreditation", accreditationRow},
	{lexicons.CatalogRuleSet, "rule_set", ruleSetRow},
	{lexicons.CatalogEntry, "catalog_entry", entryRow},
	{lexicons.CatalogEntryStatus, "entry_status", entryStatusRow},
	{lexicons.WorkTask, "task", taskRow},
	{lexicons.WorkTaskStatus, "task_status", taskStatusRow},
	{lexicons.WorkClaim, "claim", claimRow},
	{lexicons.WorkProof, "proof", proofRow},
	{lexicons.WorkVerification, "verification", verificationRow},
	{lexicons.WorkReview, "review", reviewRow},
	{lexicons.WorkResponse, "response", responseRow},
	{lexicons.OfferOffering, "offering", offeringRow},
	{lexicons.OfferOfferingStatus, "offering_status", offeringStatusRow},
	{lexicons.OfferRedemption, "redemption", redemptionRow},
	{lexicons.LedgerReceipt, "receipt", receiptRow},
	{lexicons.LedgerCheckpoint, "checkpoint", checkpointRow},
	{lexicons.LedgerEpochReport, "epoch_report", epochReportRow},
	{lexicons.LedgerCosignature, "cosignature", cosignatureRow},
	{lexicons.GovParameterSet, "parameter_set", parameterSetRow},
	{lexicons.GovDecision, "decision", decisionRow},
	{lexicons.GovDispute, "dispute", disputeRow},
	{lexicons.GovResolution, "resolution", resolutionRow},
}

func handler(nsid string) (Handler, bool) {
	for _, h := range Handlers {
		if h.NSID == nsid {
			return h, true
		}
	}
	return Handler{}, false
}

// Record is one current, valid record.
type Record struct {
	DID, Coll, RKey, CID string
	CBOR                 []byte
}

// project writes the record's row. Its table and columns come from Handlers, never from the network.
func project(ctx context.Context, tx pgx.Tx, r Record) error {
	h, ok := handler(r.Coll)
	if !ok {
		return nil
	}
	columns, err := h.Row(r.CBOR)
	if err != nil {
		return fmt.Errorf("project %s of %s: %w", r.Coll, r.DID, err)
	}
	columns["did"], columns["rkey"], columns["cid"] = r.DID, r.RKey, r.CID
	var names, values, sets []string
	for _, name := range slices.Sorted(maps.Keys(columns)) { // one order, so that one statement is prepared once
		names, values, sets = append(names, name), append(values, "@"+name), append(sets, name+" = excluded."+name)
		columns[name] = storable(columns[name])
	}
	if _, err := tx.Exec(ctx, "insert into "+h.Table+" ("+strings.Join(names, ", ")+") values ("+strings.Join(values, ", ")+
		") on conflict (did, rkey) do update set "+strings.Join(sets, ", "), pgx.NamedArgs(columns)); err != nil {
		return fmt.Errorf("project %s of %s: %w", r.Coll, r.DID, err)
	}
	return pending(ctx, tx, r, columns)
}

// storable is v as PostgreSQL takes it: a stranger's text may hold NUL, which is valid everywhere but there.
func storable(v any) any {
	switch v := v.(type) {
	case string:
		return strings.ReplaceAll(v, "\x00", "\ufffd")
	case []string:
		out := make([]string, len(v))
		for i, s := range v {
			out[i] = strings.ReplaceAll(s, "\x00", "\ufffd")
		}
		return out
	}
	return v
}

// unproject takes the record's row away.
func unproject(ctx context.Context, tx pgx.Tx, did, coll, rkey string) error {
	h, ok := handler(coll)
	if !ok {
		return nil
	}
	if _, err := tx.Exec(ctx, "delete from "+h.Table+" where did = @did and rkey = @rkey", pgx.NamedArgs{"did": did, "rkey": rkey}); err != nil {
		return fmt.Errorf("remove %s of %s: %w", coll, did, err)
	}
	return nil
}

// decode reads a record that lexicons.Validate let pass into its generated type.
func decode[T any, P interface {
	*T
	cbg.CBORUnmarshaler
}](cbor []byte) (*T, error) {
	v := new(T)
	if err := P(v).UnmarshalCBOR(bytes.NewReader(cbor)); err != nil {
		return nil, err
	}
	return v, nil
}

// text is an optional string; absent reads as "".
func text(s *string) string {
	if s == nil {
		return ""
	}
	return *s
}

// list is never nil, since SQL tells null from empty.
func list(s []string) []string {
	if s == nil {
		return []string{}
	}
	return s
}

// orNull keeps an absent optional string out of the table.
func orNull(s string) any {
	if s == "" {
		return nil
	}
	return s
}

// stamp reads a datetime that the schema let pass; PostgreSQL gets it as an instant.
func stamp(s string) (any, error) {
	t, err := syntax.ParseDatetime(s)
	if err != nil {
		return nil, err
	}
	return t.Time(), nil
}
