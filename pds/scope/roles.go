package scope

import (
	"errors"
	"slices"
	"strings"
	"sync"

	"city-sync.org/citysync/lexicons"
)

// The roles in which somebody acts for an organization. A custom role says its scope itself.
const (
	RoleCoordinator = "coordinator"
	RoleRedeemer    = "redeemer-manager"
	RoleEditor      = "editor"
	RoleCustom      = "custom"
)

// Roles lists the roles that have a scope of their own, the narrowest first.
func Roles() []string { return []string{RoleCoordinator, RoleRedeemer, RoleEditor} }

// roles are cut out of what an organization does, so they follow when it grows.
var roles = sync.OnceValue(func() map[string]*Set {
	group := func(name string, others ...string) func(string) bool {
		return func(nsid string) bool {
			return strings.HasPrefix(nsid, lexicons.Root+"."+name+".") || slices.Contains(others, nsid)
		}
	}
	return map[string]*Set{
		// The tasks, from their publication to their verification, and the desk.
		RoleCoordinator: role(group("work",
			lexicons.LedgerListClaims, lexicons.LedgerActivate, lexicons.LedgerIssueCard, lexicons.LedgerEndCard)),
		// The offerings, and the tills that honour them.
		RoleRedeemer: role(group("offer", lexicons.LedgerBindTill, lexicons.LedgerResetTill, lexicons.LedgerGetTillSlip)),
		// All that an organization does, with the pictures and documents of its profile.
		RoleEditor: role(func(string) bool { return true }, BlobOf("image/*"), BlobOf("application/pdf")),
	}
})

// role keeps of authOrganization what is wanted. Its methods are allowed at every service,
// as a person of the organization works with several: AppViews and ledgers.
func role(wanted func(nsid string) bool, more ...Permission) *Set {
	set, _ := lexicons.PermissionSetOf(lexicons.AuthOrganization)
	records := Permission{Kind: KindRepo, Actions: everyAction}
	methods := Permission{Kind: KindRPC, Aud: any1}
	for _, p := range set.Permissions {
		for _, nsid := range p.Collection {
			if wanted(nsid) {
				records.Collections = append(records.Collections, nsid)
			}
		}
		for _, nsid := range p.LXM {
			if wanted(nsid) {
				methods.Methods = append(methods.Methods, nsid)
			}
		}
	}
	slices.Sort(records.Collections)
	slices.Sort(methods.Methods)
	out := &Set{}
	for _, p := range append([]Permission{records, methods}, more...) {
		out.add(term{text: p.String(), permissions: []Permission{p}})
	}
	out.order()
	return out
}

// RoleOf is what one who has the role may do. custom is read for RoleCustom only.
func RoleOf(name, custom string, sets Resolver) (*Set, error) {
	if s, ok := roles()[name]; ok {
		if custom != "" {
			return nil, errors.New("only a custom role has a scope")
		}
		return s, nil
	}
	if name != RoleCustom {
		return nil, &InvalidError{Word: name, Reason: "not a role"}
	}
	s, err := Parse(custom, sets)
	if err != nil {
		return nil, err
	}
	if s.Empty() {
		return nil, errors.New("a custom role needs a scope that allows something")
	}
	for _, t := range s.terms {
		for _, p := range t.permissions {
			// The account itself stays with its owner.
			if p.Kind == KindAccount || p.Kind == KindIdentity || p.span != everything {
				return nil, &InvalidError{Word: t.text, Reason: "a role cannot give this away"}
			}
		}
		if t.text == Base || strings.HasPrefix(t.text, "transition:") {
			return nil, &InvalidError{Word: t.text, Reason: "a role cannot give this away"}
		}
	}
	return s, nil
}
