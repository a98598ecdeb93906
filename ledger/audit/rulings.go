package audit

import (
	"bytes"
	"strings"

	"github.com/bluesky-social/indigo/atproto/syntax"

	"city-sync.org/citysync/ledger/entry"
)

const (
	nsidResolution = "org.city-sync.gov.resolution"
	nsidDecision   = "org.city-sync.gov.decision"
	nsidStatus     = "org.city-sync.offer.offeringStatus"
)

// stops checks the record that something is stopped or goes on by: an answer or ruling of an objection, the word of a
// redeemer about its offering, or a decision.
func (c *causes) stops(what, subject, status string) {
	cause := c.e.Causes[0]
	switch {
	case what == entry.PauseOffering && strings.Contains(cause.URI, "/"+nsidStatus+"/"):
		r := c.get(cause, nsidStatus)
		if r == nil {
			return
		}
		equal(c, cause.URI, "status", r.text("status"), status)
		equal(c, cause.URI, "offering", r.ref("offering").URI, subject)
	case what == entry.PauseTask || what == entry.PauseOffering:
		r := c.get(cause, nsidResolution)
		if r == nil {
			return
		}
		result := r.text("result")
		answers := result == "admitted" || result == "not-admitted"
		c.check(cause.URI, (status == "paused") == (result == "admitted") && (status == "paused" || !answers),
			"its result is %q, the entry is a %s", result, c.e.Kind)
	default:
		if r := c.get(cause, nsidDecision); r != nil {
			result := r.text("result")
			c.check(cause.URI, result == "adopted" || result == "amended", "its result is %q, the entry is a %s", result, c.e.Kind)
		}
	}
}

// ruling checks that a resolution upholds a dispute and orders this of an organization; none where it does not matter whose.
func (c *causes) ruling(cause entry.Cause, kind string, org syntax.DID) {
	r := c.get(cause, nsidResolution)
	if r == nil {
		return
	}
	result := r.text("result")
	c.check(cause.URI, result == "upheld" || result == "partial", "its result is %q, and it is to order something", result)
	ordered := false
	for _, v := range r.list("remedies") {
		m := asRecord(v)
		ordered = ordered || m.text("kind") == kind && (org == "" || m.text("org") == string(org))
	}
	c.check(cause.URI, ordered, "it does not order %q of %s", kind, org)
}

// correction checks what a reversal of a mint rests on: a verification of the same claim that takes the place of another, and
// the ruling that orders it.
func (c *causes) correction() {
	if len(c.e.Causes) != 2 {
		return // the replay has said so
	}
	cause := c.e.Causes[0]
	if r := c.get(cause, "org.city-sync.work.verification"); r != nil {
		c.check(cause.URI, r.ref("supersedes").URI != "", "supersedes no verification")
		if subject := r.object("subject"); subject.object("claim") == nil {
			c.check(cause.URI, bytes.Equal(subject.object("blindedSubject").bytes("value"), c.e.Nullifier), "its subject is not the entry's nullifier")
		}
	}
	c.ruling(c.e.Causes[1], "correct", "")
}
