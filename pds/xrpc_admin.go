package pds

import (
	"context"
	"fmt"
	"strings"

	"github.com/bluesky-social/indigo/atproto/syntax"
	"github.com/jackc/pgx/v5"

	"city-sync.org/citysync/internal/xrpc"
)

func (s *Server) adminRoutes(m *xrpc.Mux) {
	small := xrpc.MaxBody(smallBody)
	m.Query("com.atproto.admin.getAccountInfo", s.adminAccount)
	m.Query("com.atproto.admin.getAccountInfos", s.adminAccounts)
	m.Query("com.atproto.admin.searchAccounts", s.adminSearch)
	m.Query("com.atproto.admin.getSubjectStatus", s.adminSubject)
	m.Procedure("com.atproto.admin.updateSubjectStatus", s.adminUpdateSubject, small)
	m.Procedure("com.atproto.admin.updateAccountEmail", s.adminEmail, small)
	m.Procedure("com.atproto.admin.updateAccountHandle", s.adminHandle, small)
	m.Procedure("com.atproto.admin.updateAccountPassword", s.adminPassword, small)
	m.Procedure("com.atproto.admin.sendEmail", s.adminSendEmail, small)
	m.Procedure("com.atproto.admin.disableInviteCodes", s.adminDisableInvites, small)
	m.Query("com.atproto.admin.getInviteCodes", s.adminInvites)
	m.Procedure("com.atproto.admin.deleteAccount", s.adminDelete, small)
}

// asOperator runs an act of an operator whose role allows it, about an account that is here.
func (s *Server) asOperator(c *xrpc.Call, need Role, account, detail string, do func(ctx context.Context, acc *account) error) error {
	op, err := s.operatorOf(c, need)
	if err != nil {
		return err
	}
	acc, err := s.hosted(c.Context(), account)
	if err != nil {
		return err
	}
	return s.operate(c.Context(), deed{Operator: op, Method: c.NSID, DID: acc.DID.String(), Detail: detail}, func() error {
		return do(c.Context(), acc)
	})
}

// adminView is com.atproto.admin.defs#accountView.
type adminView struct {
	DID       syntax.DID `json:"did"`
	Handle    string     `json:"handle"`
	Email     *string    `json:"email,omitempty"`
	Confirmed string     `json:"emailConfirmedAt,omitempty"`
	Created   string     `json:"indexedAt"`
}

func viewAdmin(acc *account) adminView {
	v := adminView{DID: acc.DID, Handle: acc.Handle, Email: acc.Email, Created: eventTime(acc.Created)}
	if acc.EmailConfirmed != nil {
		v.Confirmed = eventTime(*acc.EmailConfirmed)
	}
	return v
}

func (s *Server) adminAccount(c *xrpc.Call) (out any, err error) {
	err = s.asOperator(c, RoleReader, c.Param("did"), "", func(_ context.Context, acc *account) error {
		out = viewAdmin(acc)
		return nil
	})
	return out, err
}

const maxAccountInfos = 100

// adminAccounts leaves out whom this server does not have.
func (s *Server) adminAccounts(c *xrpc.Call) (any, error) {
	op, err := s.operatorOf(c, RoleReader)
	if err != nil {
		return nil, err
	}
	dids, err := c.Strings("dids", maxAccountInfos)
	if err != nil {
		return nil, err
	}
	for _, d := range dids {
		if _, err := syntax.ParseDID(d); err != nil {
			return nil, invalid("%.80q is not a DID", d)
		}
	}
	out := struct {
		Infos []adminView `json:"infos"`
	}{Infos: []adminView{}}
	err = s.operate(c.Context(), deed{Operator: op, Method: c.NSID, Detail: fmt.Sprintf("%d accounts", len(dids))}, func() error {
		list, err := s.listAccounts(c.Context(), `where did = any($1) order by did`, dids)
		for _, acc := range list {
			out.Infos = append(out.Infos, viewAdmin(acc))
		}
		return err
	})
	return out, err
}

func (s *Server) listAccounts(ctx context.Context, where string, args ...any) ([]*account, error) {
	rows, err := s.pool.Query(ctx, selectAccount+where, args...)
	if err != nil {
		return nil, fmt.Errorf("list accounts: %w", err)
	}
	list, err := pgx.CollectRows(rows, pgx.RowToAddrOfStructByName[account])
	if err != nil {
		return nil, fmt.Errorf("list accounts: %w", err)
	}
	return list, nil
}

// adminSearch lists accounts by DID, those of one e-mail address where it is given.
func (s *Server) adminSearch(c *xrpc.Call) (any, error) {
	op, err := s.operatorOf(c, RoleReader)
	if err != nil {
		return nil, err
	}
	limit, err := c.Int("limit", 50, 1, 100)
	if err != nil {
		return nil, err
	}
	out := struct {
		Cursor   string      `json:"cursor,omitempty"`
		Accounts []adminView `json:"accounts"`
	}{Accounts: []adminView{}}
	err = s.operate(c.Context(), deed{Operator: op, Method: c.NSID}, func() error {
		const where = `where did > $1 and ($2 = '' or email = $2) order by did limit $3`
		list, err := s.listAccounts(c.Context(), where, c.Param("cursor"), strings.ToLower(c.Param("email")), limit)
		for _, acc := range list {
			out.Accounts = append(out.Accounts, viewAdmin(acc))
		}
		if int64(len(list)) == limit {
			out.Cursor = list[len(list)-1].DID.String()
		}
		return err
	})
	return out, err
}

func (s *Server) adminEmail(c *xrpc.Call) (any, error) {
	var in struct {
		Account string `json:"account"`
		Email   string `json:"email"`
	}
	if err := c.Body(&in); err != nil {
		return nil, err
	}
	email, err := normalEmail(in.Email)
	if err != nil {
		return nil, err
	}
	return nil, s.asOperator(c, RoleAdministrator, in.Account, "", func(ctx context.Context, acc *account) error {
		return s.changeEmail(ctx, acc.DID, email)
	})
}

func (s *Server) adminHandle(c *xrpc.Call) (any, error) {
	var in struct {
		DID    string `json:"did"`
		Handle string `json:"handle"`
	}
	if err := c.Body(&in); err != nil {
		return nil, err
	}
	return nil, s.asOperator(c, RoleAdministrator, in.DID, "", func(ctx context.Context, acc *account) error {
		return s.changeHandle(ctx, acc, in.Handle)
	})
}

func (s *Server) adminPassword(c *xrpc.Call) (any, error) {
	var in struct {
		DID      string `json:"did"`
		Password string `json:"password"`
	}
	if err := c.Body(&in); err != nil {
		return nil, err
	}
	return nil, s.asOperator(c, RoleAdministrator, in.DID, "", func(ctx context.Context, acc *account) error {
		return s.setPassword(ctx, acc.DID, in.Password, nil)
	})
}

const (
	maxMailText    = 20_000
	maxMailSubject = 200
)

func (s *Server) adminSendEmail(c *xrpc.Call) (any, error) {
	var in struct {
		Recipient string `json:"recipientDid"`
		Content   string `json:"content"`
		Subject   string `json:"subject"`
		Sender    string `json:"senderDid"`
		Comment   string `json:"comment"`
	}
	if err := c.Body(&in); err != nil {
		return nil, err
	}
	if in.Content == "" || len(in.Content) > maxMailText || len(in.Subject) > maxMailSubject || strings.ContainsAny(in.Subject, "\r\n") {
		return nil, invalid("a mail has text of at most %d bytes and a subject of one line", maxMailText)
	}
	if in.Subject == "" {
		in.Subject = "Message from " + s.host
	}
	err := s.asOperator(c, RoleModerator, in.Recipient, "", func(ctx context.Context, acc *account) error {
		if acc.Email == nil {
			return refused("NoEmail", "the account has no e-mail address")
		}
		return s.post(ctx, *acc.Email, "operator", in.Subject, in.Content)
	})
	if err != nil {
		return nil, err
	}
	return struct {
		Sent bool `json:"sent"`
	}{true}, nil
}

// adminDelete is deleteAccount by the operator, for an owner who lost the password or a court that orders it.
func (s *Server) adminDelete(c *xrpc.Call) (any, error) {
	var in struct {
		DID string `json:"did"`
	}
	if err := c.Body(&in); err != nil {
		return nil, err
	}
	return nil, s.asOperator(c, RoleAdministrator, in.DID, "", func(ctx context.Context, acc *account) error {
		return s.delete(ctx, acc.DID)
	})
}

const maxDisabled = 1000

func (s *Server) adminDisableInvites(c *xrpc.Call) (any, error) {
	op, err := s.operatorOf(c, RoleModerator)
	if err != nil {
		return nil, err
	}
	var in struct {
		Codes    []string     `json:"codes"`
		Accounts []syntax.DID `json:"accounts"`
	}
	if err := c.Body(&in); err != nil {
		return nil, err
	}
	if len(in.Codes) > maxDisabled || len(in.Accounts) > maxDisabled {
		return nil, invalid("at most %d codes and accounts are taken at once", maxDisabled)
	}
	for _, code := range in.Codes {
		if !storable(code) {
			return nil, invalid("a code holds what no code holds")
		}
	}
	for _, did := range in.Accounts {
		if _, err := syntax.ParseDID(did.String()); err != nil {
			return nil, invalid("%.80q is not a DID", did)
		}
	}
	a := deed{Operator: op, Method: c.NSID, Detail: fmt.Sprintf("%d codes, all of %d accounts", len(in.Codes), len(in.Accounts))}
	return nil, s.operate(c.Context(), a, func() error { return s.disableInvites(c.Context(), in.Codes, in.Accounts) })
}

// adminInvites lists all codes, newest first or most used first.
func (s *Server) adminInvites(c *xrpc.Call) (any, error) {
	op, err := s.operatorOf(c, RoleReader)
	if err != nil {
		return nil, err
	}
	limit, err := c.Int("limit", 100, 1, 500)
	if err != nil {
		return nil, err
	}
	sort := c.Param("sort")
	if sort != "" && sort != "recent" && sort != "usage" {
		return nil, invalid("sort is recent or usage")
	}
	out := struct {
		Cursor string       `json:"cursor,omitempty"`
		Codes  []inviteView `json:"codes"`
	}{}
	err = s.operate(c.Context(), deed{Operator: op, Method: c.NSID}, func() error {
		out.Codes, out.Cursor, err = s.allInvites(c.Context(), sort == "usage", c.Param("cursor"), int(limit))
		return err
	})
	return out, err
}
