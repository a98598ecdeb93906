package audit_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"city-sync.org/citysync/ledger/entry"
	"city-sync.org/citysync/ledger/rules"
	"city-sync.org/citysync/ledger/rules/rulestest"
)

// The organization that a ruling named is neither the issuer nor one of its verifiers. It verified, so it may say that it was too much;
// another that the issuer has since named verified nothing here.
func TestWhoVerifiedAnewMayCorrectItself(t *testing.T) {
	t.Parallel()
	w := rulestest.NewTown(t)
	task := w.Accept(w.Task(rulestest.Parks, "more", 1))
	token := w.Claim(0, task)
	w.Now = task.Shifts[0].StartsAt
	rejected := w.Verify(task, token)
	rejected.Outcome = entry.OutcomeRejected
	w.Must(rejected)
	anew := w.Verify(task, token)
	anew.Author, anew.Record = rulestest.Auditor, w.Ref(rulestest.Auditor, "work.verification", "anew")
	anew.Upheld = new(w.Ref(rulestest.City, "gov.resolution", "paid"))
	w.Must(anew)
	w.Must(rules.Correct{
		Now: w.Now, Record: w.Ref(rulestest.Auditor, "work.verification", "less"), Author: rulestest.Auditor, Signed: true,
		Supersedes: anew.Record.Ref(), Resolution: new(w.Ref(rulestest.City, "gov.resolution", "ruled")), Token: token,
		Outcome: entry.OutcomePartial, Minutes: 60, Credits: 8,
	})
	require.Empty(t, replay(w.Leaves).Findings())

	list := copies(t, w.World)
	i := at(t, list, 0, kind(entry.KindReverse))
	list[i].Causes[0].URI = "at://did:plc:other/org.city-sync.work.verification/less"
	requireFound(t, replay(forge(t, list).leaves).Findings(), i, "did:plc:other may not verify for did:plc:parks")
}

// A verifier of the issuer's may mint for it, and may not take back what another minted: the rules refuse it, and so does the audit.
func TestAVerifierCorrectsOnlyWhatItVerified(t *testing.T) {
	t.Parallel()
	w := rulestest.NewTown(t)
	parks := w.Role(rulestest.Parks, rules.RoleIssuer)
	parks.Delegates = append(parks.Delegates, rulestest.Auditor)
	w.Must(parks)
	task := w.Accept(w.Task(rulestest.Parks, "more", 1))
	token := w.Claim(0, task)
	w.Now = task.Shifts[0].StartsAt
	first := w.Verify(task, token)
	w.Must(first)
	less := rules.Correct{
		Now: w.Now, Record: w.Ref(rulestest.Auditor, "work.verification", "less"), Author: rulestest.Auditor, Signed: true,
		Supersedes: first.Record.Ref(), Resolution: new(w.Ref(rulestest.City, "gov.resolution", "ruled")), Token: token,
		Outcome: entry.OutcomePartial, Minutes: 60, Credits: 8,
	}
	w.Refused(rules.NotAuthorized, less)
	less.Author, less.Record = rulestest.Parks, w.Ref(rulestest.Parks, "work.verification", "less")
	w.Must(less)
	require.Empty(t, replay(w.Leaves).Findings())

	list := copies(t, w.World)
	i := at(t, list, 0, kind(entry.KindReverse))
	list[i].Causes[0].URI = "at://" + string(rulestest.Auditor) + "/org.city-sync.work.verification/less"
	requireFound(t, replay(forge(t, list).leaves).Findings(), i, "did:plc:auditor may not verify for did:plc:parks")
}
