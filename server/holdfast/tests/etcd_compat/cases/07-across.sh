# What is written through the endpoint under test is read through every other one.
own=$endpoints
for value in 1 2 3; do
  e put across $value
  for other in ${all//,/ }; do
    endpoints=$other
    echo "# through each endpoint"
    e get across -w json
  done
  endpoints=$own
done
for other in ${all//,/ }; do
  endpoints=$other
  echo "# written through each endpoint"
  e put across "$other" --prev-kv -w json | sed -E 's/"(prev_)?value":"[^"]*"/"value":"#"/; s/127.*/#/; s/ENDPOINT-?[123]?/#/'
done
