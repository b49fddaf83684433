"""The RPCs of functions, classes and servers: made, looked up, called. See control_plane.py."""

from __future__ import annotations

import re
from typing import Any

from grpclib import GRPCError, Status
from modal._serialization import serialize_data_format
from modal_proto import api_pb2 as pb

from tests.deploy.objects import FAILURE, SUCCESS, Objects


class Functions(Objects):
    async def AppGetLayout(self, request: Any) -> Any:
        name = self._objects[request.app_id]
        return pb.AppGetLayoutResponse(app_layout=self.layout(name))

    def layout(self, app: str) -> pb.AppLayout:
        publish = self._apps.get(app, pb.AppPublishRequest())
        layout = pb.AppLayout(function_ids=publish.function_ids, class_ids=publish.class_ids)
        for id in publish.function_ids.values():
            layout.objects.append(pb.Object(object_id=id, function_handle_metadata=self._metadata(id)))
        for id in publish.class_ids.values():
            layout.objects.append(pb.Object(object_id=id, class_handle_metadata=pb.ClassHandleMetadata()))
        return layout

    async def FunctionPrecreate(self, request: Any) -> Any:
        draft = pb.Function(function_name=request.function_name, webhook_config=request.webhook_config)
        for name, method in request.method_definitions.items():
            draft.method_definitions[name].CopyFrom(method)
        id = self._function_id(request)
        self._objects.setdefault(id, draft)
        return pb.FunctionPrecreateResponse(function_id=id, handle_metadata=self._metadata(id))

    async def FunctionCreate(self, request: Any) -> Any:
        id = self._function_id(request)
        self._objects[id] = request.function
        metadata = self._metadata(id)
        return pb.FunctionCreateResponse(
            function_id=id, function_data=self._data(id), handle_metadata=metadata
        )

    def _data(self, function_id: str) -> pb.FunctionData:
        definition = self._objects[function_id]
        data = pb.FunctionData(function_name=definition.function_name, is_server=definition.is_server)
        data.ranked_functions.append(pb.FunctionData.RankedFunction(rank=0, function=definition))
        for name, url in self._urls(function_id).items():
            if name:
                data.method_definitions[name].CopyFrom(definition.method_definitions[name])
                data.method_definitions[name].web_url = url
            else:
                data.flash_service_urls.append(url)
        return data

    def _function_id(self, request: Any) -> str:
        owner = (self._objects[request.app_id], getattr(request, "function", request).function_name)
        id = request.existing_function_id or next((id for id, o in self._owners.items() if o == owner), "")
        id = id or f"fu-{len(self._owners) + 1}"
        self._owners[id] = owner
        return id

    def _urls(self, function_id: str) -> dict[str, str]:
        """Web method ("" for a server) → its URL, by Modal's rule or as `self.urls` says."""
        definition = self._objects[function_id]
        app = self._owners[function_id][0]
        web = {name: m for name, m in definition.method_definitions.items() if m.webhook_config.type}
        if definition.HasField("http_config"):
            region = definition.http_config.proxy_regions[0]
            urls = {"": f"https://ws--{app}-{_slug(definition.function_name)}.{region}.modal.direct"}
        else:
            urls = {name: f"https://ws--{app}-{_slug(m.function_name)}.modal.run" for name, m in web.items()}
        return {name: self.urls.get(app, url) for name, url in urls.items()}

    def _metadata(self, function_id: str) -> pb.FunctionHandleMetadata:
        definition, urls = self._objects[function_id], self._urls(function_id)
        metadata = pb.FunctionHandleMetadata(
            function_name=definition.function_name,
            function_type=definition.function_type,
            definition_id=f"de-{function_id}",
            class_parameter_info=definition.class_parameter_info,
            function_schema=definition.function_schema,
        )
        if "" in urls:
            metadata._experimental_flash_urls.append(urls[""])
        for name, method in definition.method_definitions.items():
            metadata.method_handle_metadata[name].CopyFrom(
                pb.FunctionHandleMetadata(
                    function_name=method.function_name,
                    function_type=method.function_type,
                    web_url=urls.get(name, ""),
                    is_method=True,
                    use_method_name=name,
                    function_schema=method.function_schema,
                )
            )
        return metadata

    async def ClassCreate(self, request: Any) -> Any:
        id = request.existing_class_id or self._new("cs", (request.app_id, len(self._objects)))
        return pb.ClassCreateResponse(class_id=id, handle_metadata=pb.ClassHandleMetadata())

    def _find(self, request: Any, kind: str) -> str:
        found = getattr(self._apps.get(request.app_name, pb.AppPublishRequest()), kind)
        if request.object_tag not in found:
            raise GRPCError(Status.NOT_FOUND, f"No '{request.object_tag}' in app '{request.app_name}'")
        return str(found[request.object_tag])

    async def FunctionGet(self, request: Any) -> Any:
        id = self._find(request, "function_ids")
        metadata = self._metadata(id)
        return pb.FunctionGetResponse(function_id=id, handle_metadata=metadata, function=self._data(id))

    async def ClassGet(self, request: Any) -> Any:
        id = self._find(request, "class_ids")
        return pb.ClassGetResponse(class_id=id, handle_metadata=pb.ClassHandleMetadata())

    async def FunctionBindParams(self, request: Any) -> Any:
        metadata = self._metadata(request.function_id)
        return pb.FunctionBindParamsResponse(bound_function_id=request.function_id, handle_metadata=metadata)

    async def FunctionMap(self, request: Any) -> Any:
        call = f"fc-{len(self._called)}"
        self._called[call] = self._owners[request.function_id]
        inputs = [pb.FunctionPutInputsResponseItem(input_id="in-1", input_jwt="")]
        return pb.FunctionMapResponse(function_call_id=call, pipelined_inputs=inputs)

    async def FunctionGetOutputs(self, request: Any) -> Any:
        value = self.results[self._called[request.function_call_id]]
        failed = isinstance(value, Exception)
        result = pb.GenericResult(
            status=FAILURE if failed else SUCCESS,
            exception=repr(value) if failed else "",
            data=serialize_data_format(value, pb.DATA_FORMAT_PICKLE),
        )
        output = pb.FunctionGetOutputsItem(result=result, data_format=pb.DATA_FORMAT_PICKLE, idx=0)
        return pb.FunctionGetOutputsResponse(outputs=[output])


def _slug(name: str) -> str:
    return re.sub(r"[^a-z0-9-]+", "-", name.lower().removesuffix(".*"))
