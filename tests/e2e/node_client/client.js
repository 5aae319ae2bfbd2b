// A client in another language: node client.js ADDRESS PROTO_DIRECTORY DIMENSION
//
// Finds neighbors by vector, by item and in a stream, shows what an error looks like, and writes one JSON object.
import grpc from "@grpc/grpc-js";
import loader from "@grpc/proto-loader";

const [address, protos, dimension] = process.argv.slice(2);
const definition = loader.loadSync("vicinal/v1/search_service.proto", {
  includeDirs: [protos],
  keepCase: true,
  longs: Number,
  defaults: true,
});
const { SearchService } = grpc.loadPackageDefinition(definition).vicinal.v1;
const client = new SearchService(address, grpc.credentials.createInsecure());

const deadline = () => ({ deadline: Date.now() + 10_000 });
const search = (request) =>
  new Promise((resolve, reject) =>
    client.Search(request, deadline(), (error, reply) => (error ? reject(error) : resolve(reply))),
  );

const vector = Float32Array.from({ length: Number(dimension) }, (_, place) => Math.sin(place + 1));
const packed = Buffer.from(vector.buffer);
const options = { neighbor_count: 3 };

const byVector = await search({ query: { vector: { packed } }, options });
const byItem = await search({ query: { item_id: byVector.neighbors.item_ids[0] }, options });

const streamed = await new Promise((resolve, reject) => {
  const replies = [];
  const stream = client.StreamSearch(deadline());
  stream.on("data", (reply) => replies.push(reply));
  stream.on("error", reject);
  stream.on("end", () => resolve(replies));
  for (let sequence = 1; sequence <= 20; sequence++) {
    stream.write({ sequence, search: { query: { vector: { packed } }, options } });
  }
  stream.end();
});

let failure = null;
try {
  await search({ query: { item_id: "nobody" }, options });
} catch (error) {
  failure = { code: error.code, details: error.details, status: error.metadata.get("grpc-status-details-bin").length };
}

console.log(
  JSON.stringify({
    by_vector: byVector.neighbors,
    by_item: byItem.neighbors,
    snapshot: byVector.snapshot,
    streamed: streamed.map((reply) => [reply.sequence, reply.search.neighbors.item_ids]),
    failure,
  }),
);
client.close();
