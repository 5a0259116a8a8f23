package api

import (
	"mime"
	"net/http"
	"strconv"
	"strings"

	"github.com/labstack/echo/v4"

	"github.com/writ-attestation/writ/verifier/console"
)

const mediaHTML = "text/html; charset=utf-8"

// pageRoutes are the pages for people. They hold nothing by themselves and are
// public where they are open; a closed one says so.
func (s *Server) pageRoutes() []route {
	all := []route{{method: http.MethodGet, path: "/", auth: public, query: "*", out: mediaHTML, name: "index", about: "The pages that are open, for browsers.", handle: s.index}}
	for _, name := range console.Names {
		all = append(all, route{method: http.MethodGet, path: "/" + name, auth: public, query: "*", out: mediaHTML, name: "page" + name, about: "The page " + name + ", where it is open.", handle: func(q *call) error {
			s.pages.Page(q.Response(), q.Request(), name)
			return nil
		}})
	}
	return append(all, route{method: http.MethodGet, path: "/assets/*", auth: public, out: mediaBytes, name: "asset", about: "A file that the pages are made of.", handle: func(q *call) error {
		s.pages.Asset(q.Response(), q.Request(), q.Param("*"))
		return nil
	}})
}

// index shows a browser which pages there are. Whoever does not ask for a page has come
// to the wrong path, as ever.
func (s *Server) index(q *call) error {
	q.Response().Header().Add("Vary", "Accept")
	if !wantsHTML(q.Request().Header.Values("Accept")) {
		return echo.ErrNotFound
	}
	s.pages.Index(q.Response(), q.Request())
	return nil
}

// wantsHTML reads Accept (RFC 9110, 12.5.1) for HTML by name, with any weight but nought.
func wantsHTML(accept []string) bool {
	for item := range strings.SplitSeq(strings.Join(accept, ","), ",") {
		kind, params, err := mime.ParseMediaType(item)
		if err != nil || kind != "text/html" {
			continue
		}
		if weight, err := strconv.ParseFloat(params["q"], 64); params["q"] == "" || err == nil && weight > 0 {
			return true
		}
	}
	return false
}
