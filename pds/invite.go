package pds

import (
	"cmp"
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/bluesky-social/indigo/atproto/syntax"
	"github.com/jackc/pgx/v5"

	"city-sync.org/citysync/internal/pg"
	"city-sync.org/citysync/internal/xrpc"
)

const (
	maxInviteUses  = 10_000
	maxInviteCodes = 100 // made for one account at once
	maxInvited     = 100 // accounts that codes are made for at once
	operatorsName  = "admin"
)

// newCode is an invite code such as "localhost-abcde-fghij": who has several knows where each belongs.
func (s *Server) newCode() string {
	return strings.ReplaceAll(strings.ToLower(s.host), ".", "-") + "-" + randomID(5)[:5] + "-" + randomID(5)[:5]
}

// makeInvites stores n codes that did may give away; "" is the operator.
func (s *Server) makeInvites(ctx context.Context, tx pgx.Tx, did syntax.DID, n int, uses int64, now time.Time) ([]string, error) {
	codes := make([]string, n)
	for i := range codes {
		codes[i] = s.newCode()
	}
	const insert = `insert into invite (code, uses, created, did) select u, @uses, @now, @did from unnest(@codes::text[]) u`
	_, err := tx.Exec(ctx, insert, pgx.NamedArgs{"codes": codes, "uses": uses, "now": now, "did": orNull(did.String())})
	if foreignKeyViolation(err) {
		return nil, errRepoNotFound(did.String())
	}
	if err != nil {
		return nil, fmt.Errorf("store invites: %w", err)
	}
	return codes, nil
}

// useInvite takes one use of a code. An account that is not active lets nobody in.
func useInvite(ctx context.Context, tx pgx.Tx, code string) error {
	const use = `
		update invite set used = used + 1 where code = $1 and used < uses and not disabled
		and (did is null or exists (select from account a where a.did = invite.did and a.status = 'active'))`
	if !storable(code) {
		return errInvite()
	}
	tag, err := tx.Exec(ctx, use, code)
	if err != nil {
		return fmt.Errorf("use invite: %w", err)
	}
	if tag.RowsAffected() == 0 {
		return errInvite()
	}
	return nil
}

func errInvite() error {
	return refused("InvalidInviteCode", "the invite code is unknown or used up")
}

// disableInvites shuts codes, and all codes of accounts.
func (s *Server) disableInvites(ctx context.Context, codes []string, accounts []syntax.DID) error {
	const shut = `update invite set disabled = true where code = any ($1) or did = any ($2)`
	if _, err := s.pool.Exec(ctx, shut, codes, accounts); err != nil {
		return fmt.Errorf("disable invites: %w", err)
	}
	return nil
}

type inviteUseView struct {
	UsedBy syntax.DID `json:"usedBy"`
	UsedAt string     `json:"usedAt"`
}

type inviteView struct {
	Code       string          `json:"code"`
	Available  int64           `json:"available"`
	Disabled   bool            `json:"disabled"`
	ForAccount string          `json:"forAccount"`
	CreatedBy  string          `json:"createdBy"`
	CreatedAt  string          `json:"createdAt"`
	Uses       []inviteUseView `json:"uses"`
}

// inviteRow is a code as it is listed. Used sorts those that are used most.
type inviteRow struct {
	Code      string
	DID       *syntax.DID
	Available int64
	Used      int64
	Disabled  bool
	Created   time.Time
}

const selectInvite = `select code, did, uses - used as available, used, disabled, created from invite `

// invitesOf lists the codes that an account may give away, newest first.
func (s *Server) invitesOf(ctx context.Context, did syntax.DID, withUsed bool) ([]inviteView, error) {
	const mine = selectInvite + `where did = $1 and ($2 or used < uses) order by created desc, code limit $3`
	rows, err := s.inviteRows(ctx, mine, did, withUsed, maxInviteCodes*10)
	if err != nil {
		return nil, err
	}
	return s.viewInvites(ctx, rows)
}

// allInvites lists the codes of everybody, a page after the one that cursor names.
func (s *Server) allInvites(ctx context.Context, byUse bool, cursor string, limit int) (views []inviteView, next string, err error) {
	const recent = selectInvite + `
		where $1 = '' or (created, code) < (select created, code from invite where code = $1) order by created desc, code desc limit $2`
	const usage = selectInvite + `
		where $1 = '' or (used, code) < (select used, code from invite where code = $1) order by used desc, code desc limit $2`
	sql := recent
	if byUse {
		sql = usage
	}
	rows, err := s.inviteRows(ctx, sql, cursor, limit)
	if err != nil {
		return nil, "", err
	}
	if len(rows) == limit {
		next = rows[limit-1].Code
	}
	views, err = s.viewInvites(ctx, rows)
	return views, next, err
}

func (s *Server) inviteRows(ctx context.Context, sql string, args ...any) ([]inviteRow, error) {
	rows, err := s.pool.Query(ctx, sql, args...)
	if err != nil {
		return nil, fmt.Errorf("list invites: %w", err)
	}
	list, err := pgx.CollectRows(rows, pgx.RowToStructByName[inviteRow])
	if err != nil {
		return nil, fmt.Errorf("list invites: %w", err)
	}
	return list, nil
}

func (s *Server) viewInvites(ctx context.Context, list []inviteRow) ([]inviteView, error) {
	views, at := make([]inviteView, 0, len(list)), map[string]int{}
	codes := make([]string, 0, len(list))
	for i, r := range list {
		whose := operatorsName
		if r.DID != nil {
			whose = r.DID.String()
		}
		views = append(views, inviteView{
			Code: r.Code, Available: r.Available, Disabled: r.Disabled, ForAccount: whose, CreatedBy: operatorsName,
			CreatedAt: eventTime(r.Created), Uses: []inviteUseView{},
		})
		at[r.Code] = i
		codes = append(codes, r.Code)
	}
	rows, err := s.pool.Query(ctx, `select code, did, at from invite_use where code = any ($1) order by at, did`, codes)
	if err != nil {
		return nil, fmt.Errorf("list uses of invites: %w", err)
	}
	var code string
	var by syntax.DID
	var when time.Time
	_, err = pgx.ForEachRow(rows, []any{&code, &by, &when}, func() error {
		v := &views[at[code]]
		v.Uses = append(v.Uses, inviteUseView{UsedBy: by, UsedAt: eventTime(when)})
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("list uses of invites: %w", err)
	}
	return views, nil
}

func checkUses(n int64) error {
	if n < 1 || n > maxInviteUses {
		return invalid("useCount must be from 1 to %d", maxInviteUses)
	}
	return nil
}

// forAccount reads the account that a code is for; empty and "admin" are the operator.
func forAccount(raw string) (syntax.DID, error) {
	if raw == "" || raw == operatorsName {
		return "", nil
	}
	did, err := syntax.ParseDID(raw)
	if err != nil {
		return "", invalid("%q is not a DID", raw)
	}
	return did, nil
}

func (s *Server) createInviteCode(c *xrpc.Call) (any, error) {
	op, err := s.operatorOf(c, RoleModerator)
	if err != nil {
		return nil, err
	}
	var in struct {
		UseCount   int64  `json:"useCount"`
		ForAccount string `json:"forAccount"`
	}
	if err := c.Body(&in); err != nil {
		return nil, err
	}
	lists, err := s.inviteBy(c, op, []string{in.ForAccount}, 1, in.UseCount)
	if err != nil {
		return nil, err
	}
	return struct {
		Code string `json:"code"`
	}{lists[0].Codes[0]}, nil
}

type codesOf struct {
	Account string   `json:"account"`
	Codes   []string `json:"codes"`
}

func (s *Server) createInviteCodes(c *xrpc.Call) (any, error) {
	op, err := s.operatorOf(c, RoleModerator)
	if err != nil {
		return nil, err
	}
	in := struct {
		CodeCount   int      `json:"codeCount"`
		UseCount    int64    `json:"useCount"`
		ForAccounts []string `json:"forAccounts"`
	}{CodeCount: 1}
	if err := c.Body(&in); err != nil {
		return nil, err
	}
	if len(in.ForAccounts) == 0 {
		in.ForAccounts = []string{operatorsName}
	}
	lists, err := s.inviteBy(c, op, in.ForAccounts, in.CodeCount, in.UseCount)
	if err != nil {
		return nil, err
	}
	return struct {
		Codes []codesOf `json:"codes"`
	}{lists}, nil
}

// inviteBy is invite as an operator's act.
func (s *Server) inviteBy(c *xrpc.Call, op *Operator, accounts []string, n int, uses int64) (lists []codesOf, err error) {
	a := deed{Operator: op, Method: c.NSID, Detail: fmt.Sprintf("%d codes of %d uses for %d accounts", n, uses, len(accounts))}
	err = s.operate(c.Context(), a, func() error {
		lists, err = s.invite(c.Context(), accounts, n, uses)
		return err
	})
	return lists, err
}

// invite makes n codes for each account, all or none.
func (s *Server) invite(ctx context.Context, accounts []string, n int, uses int64) (lists []codesOf, err error) {
	if err := checkUses(uses); err != nil {
		return nil, err
	}
	if n < 1 || n > maxInviteCodes || len(accounts) > maxInvited {
		return nil, invalid("1 to %d codes are made at once, for %d accounts at most", maxInviteCodes, maxInvited)
	}
	now := s.clock.Now()
	err = pg.InTx(ctx, s.pool, func(tx pgx.Tx) error {
		for _, raw := range accounts {
			did, err := forAccount(raw)
			if err != nil {
				return err
			}
			codes, err := s.makeInvites(ctx, tx, did, n, uses, now)
			if err != nil {
				return err
			}
			lists = append(lists, codesOf{Account: cmp.Or(did.String(), operatorsName), Codes: codes})
		}
		return nil
	})
	if err != nil {
		return nil, wrapUnlessShown(err, "make invites")
	}
	return lists, nil
}

func (s *Server) getAccountInviteCodes(c *xrpc.Call) (any, error) {
	a, err := s.owner(c)
	if err != nil {
		return nil, err
	}
	withUsed, err := c.Bool("includeUsed", true)
	if err != nil {
		return nil, err
	}
	if _, err := c.Bool("createAvailable", true); err != nil { // codes come from the operator alone: there is none to be made here
		return nil, err
	}
	views, err := s.invitesOf(c.Context(), a.Account.DID, withUsed)
	if err != nil {
		return nil, err
	}
	return struct {
		Codes []inviteView `json:"codes"`
	}{views}, nil
}
