package api

import (
	"net/http"

	"github.com/writ-attestation/writ/verifier/console"
)

const mediaHTML = "text/html; charset=utf-8"

// pageRoutes are the pages for people. They hold nothing by themselves and are
// public where they are open; a closed one says so.
func (s *Server) pageRoutes() []route {
	var all []route
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
