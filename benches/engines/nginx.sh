# sh -ec TEXT NGINX PARTS: serves files of one line, and a page that is put together of them.
mkdir /tmp/nginx
cd /tmp/nginx
for i in $(seq "$1"); do
  echo "a small file" >"part$i"
  echo "<!--# include virtual=\"/part$i\" -->" >>page
done
cat >conf <<END
daemon off; pid pid; error_log stderr;
events {}
http {
  access_log off; default_type text/html; ssi on;
  client_body_temp_path a; proxy_temp_path b; fastcgi_temp_path c; uwsgi_temp_path d; scgi_temp_path e;
  server { listen 127.0.0.1:$PORT; root /tmp/nginx; }
}
END
echo listening
exec "$0" -p /tmp/nginx -c conf
