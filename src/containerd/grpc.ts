import {
  create,
  fromBinary,
  toBinary,
  type DescMessage,
  type DescMethod,
  type DescService,
  type Message,
  type MessageInitShape,
  type MessageShape,
} from '@bufbuild/protobuf';
import { Client, credentials, Metadata, type ClientDuplexStream } from '@grpc/grpc-js';
import type { MethodDefinition, ServiceError } from '@grpc/grpc-js';
import { codeOfGrpc, LazylayerError } from '../errors.js';

/** A method of a generated service, with the types of its messages. */
export type Method<I extends DescMessage, O extends DescMessage> = DescMethod & { input: I; output: O };

/** A generated service as a server of gRPC takes it. Keys are the methods' names in lower camel case. */
export function grpcDefinition(service: DescService): Record<string, MethodDefinition<Message, Message>> {
  return Object.fromEntries(service.methods.map((method) => [method.localName, definitionOf(method)]));
}

function definitionOf(method: DescMethod): MethodDefinition<Message, Message> {
  const { input, output, methodKind } = method;
  return {
    path: `/${method.parent.typeName}/${method.name}`,
    requestStream: methodKind === 'client_streaming' || methodKind === 'bidi_streaming',
    responseStream: methodKind === 'server_streaming' || methodKind === 'bidi_streaming',
    requestSerialize: (message) => Buffer.from(toBinary(input, message)),
    requestDeserialize: (bytes) => fromBinary(input, bytes),
    responseSerialize: (message) => Buffer.from(toBinary(output, message)),
    responseDeserialize: (bytes) => fromBinary(output, bytes),
  };
}

/** Services at a unix socket. Calls fail with a LazylayerError that has the service's code and words. */
export class GrpcClient implements Disposable {
  readonly #client: Client;

  /** `headers` go with every call. */
  constructor(
    address: string,
    private readonly headers: Readonly<Record<string, string>> = {},
  ) {
    // What any client sends, told apart from the socket's path, which some servers refuse as an authority.
    const options = { 'grpc.default_authority': 'localhost' };
    this.#client = new Client(`unix:${address}`, credentials.createInsecure(), options);
  }

  async call<I extends DescMessage, O extends DescMessage>(
    method: Method<I, O>,
    init: MessageInitShape<I>,
    signal?: AbortSignal,
  ): Promise<MessageShape<O>> {
    signal?.throwIfAborted();
    const { path, requestSerialize, responseDeserialize } = definitionOf(method);
    const request: Message = create(method.input, init);
    return new Promise((resolve, reject) => {
      const answered = (error: ServiceError | null, answer?: Message) => {
        signal?.removeEventListener('abort', cancel);
        if (error === null) resolve(answer as MessageShape<O>);
        else reject(signal?.aborted === true ? (signal.reason as Error) : errorOf(error));
      };
      const metadata = this.#metadata();
      const running = this.#client.makeUnaryRequest(
        path,
        requestSerialize,
        responseDeserialize,
        request,
        metadata,
        answered,
      );
      const cancel = () => running.cancel();
      signal?.addEventListener('abort', cancel, { once: true });
    });
  }

  /** A method that gives many, or takes many; its errors are to be told by `errorOf`. */
  stream<I extends DescMessage, O extends DescMessage>(
    method: Method<I, O>,
  ): ClientDuplexStream<MessageShape<I>, MessageShape<O>> {
    const { path, requestSerialize, responseDeserialize } = definitionOf(method);
    const stream = this.#client.makeBidiStreamRequest(path, requestSerialize, responseDeserialize, this.#metadata());
    return stream as unknown as ClientDuplexStream<MessageShape<I>, MessageShape<O>>;
  }

  #metadata(): Metadata {
    const metadata = new Metadata();
    for (const [key, value] of Object.entries(this.headers)) metadata.set(key, value);
    return metadata;
  }

  /** Begins no call any more; those under way go on. */
  [Symbol.dispose](): void {
    this.#client.close();
  }
}

/** What a service answered, as an error of ours. Others stay what they are. */
export function errorOf(error: unknown): Error {
  const { code, details } = error as Partial<ServiceError>;
  if (typeof code === 'number' && details !== undefined) return new LazylayerError(codeOfGrpc(code), details);
  return error instanceof Error ? error : new LazylayerError('INTERNAL', String(error));
}
